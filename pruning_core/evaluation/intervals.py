"""How sure a number is: bootstrap intervals over windows or items, alone and paired.

Everything measured here is a mean over the pieces of a test set: items of a task, or windows that
weigh by the tokens they score. The pieces are drawn anew with replacement, many times, and the
interval covers the middle of the means that this gives. Between two models the differences are
drawn, piece by piece, since what is hard for the one is hard for the other: such an interval is far
narrower than the two single ones suggest.

The percentiles are moved outwards for the number of pieces (the expanded percentile interval of
Hesterberg 2015, "What Teachers Should Know About the Bootstrap"): plain ones are too narrow where
pieces are few. What no drawing can know: that neighbouring windows of one article are alike, and
anything at all where every piece is the same, which gives an interval without width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pruning_core.errors import PrunescopeError

LEVEL = 0.95
RESAMPLES = 2000

_AT_ONCE = 1 << 22
"""Numbers drawn at a time: those of ten thousand items would not all fit into memory."""

_LARGEST_LOSS = 700
"""Nats per token whose exponential a float still holds."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends between which it lies with the confidence `level`."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def mapped(self, rising: Callable[[float], float]) -> Interval:
        """Return the interval of a rising function of the mean, such as exp."""
        return Interval(rising(self.value), rising(self.low), rising(self.high), self.level)

    @property
    def beyond_noise(self) -> bool:
        """Whether zero lies outside: of a difference, that it is more than noise."""
        return self.low > 0 or self.high < 0


def perplexity_of(loss: float) -> float:
    """Return the perplexity of a loss in nats per token; infinite beyond what a float holds.

    Of a difference of losses it is the ratio of the perplexities.
    """
    return math.exp(loss) if loss < _LARGEST_LOSS else math.inf


def bootstrap(
    values: Sequence[float] | Values,
    weights: Sequence[float] | Values | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the weighted mean of values and its interval; the same seed draws the same.

    Args:
        values: one for each piece, [pieces]; a share of successes is a mean of zeros and ones.
        weights: of the pieces, such as the tokens of windows; None where all are alike.
        level: confidence, above 0 and below 1.
        resamples: how often the pieces are drawn anew.
        seed: of the drawing.

    Raises:
        PrunescopeError: if there are no pieces, one is not finite, or a number is out of bounds.
    """
    pieces = np.asarray(values, np.float64)
    shares = np.ones_like(pieces) if weights is None else np.asarray(weights, np.float64)
    _check(pieces, shares, level, resamples)
    value = float(pieces @ shares / shares.sum())
    count = len(pieces)
    if count == 1:
        # One piece says nothing about how much pieces differ.
        return Interval(value, -math.inf, math.inf, level)
    draw = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(_AT_ONCE // count, 1)
    for start in range(0, resamples, at_once):
        here = slice(start, min(start + at_once, resamples))
        chosen = draw.integers(count, size=(here.stop - start, count))
        drawn = shares[chosen]
        means[here] = (pieces[chosen] * drawn).sum(-1) / drawn.sum(-1)
    tail = _expanded_tail(level, count)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(value, float(low), float(high), level)


def paired(
    before: Sequence[float] | Values,
    after: Sequence[float] | Values,
    weights: Sequence[float] | Values | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``after - before`` over the same pieces; `Interval.beyond_noise` judges.

    Raises:
        PrunescopeError: if the two are not of the same pieces, and as `bootstrap` does.
    """
    if len(before) != len(after):
        raise PrunescopeError(
            f"A paired comparison needs the same pieces on both sides: here are {len(before)} and "
            f"{len(after)}. Measure both under one protocol with one limit."
        )
    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return bootstrap(differences, weights, level=level, resamples=resamples, seed=seed)


def _check(pieces: Values, shares: Values, level: float, resamples: int) -> None:
    if not len(pieces) or pieces.shape != shares.shape:
        raise PrunescopeError("There is nothing measured to put an interval around.")
    if not (np.isfinite(pieces).all() and np.isfinite(shares).all()):
        raise PrunescopeError(
            "Some of what was measured is not a finite number, so there is no interval around it."
        )
    if not (0 < level < 1 and resamples >= 1):
        raise PrunescopeError(
            f"An interval needs a level between 0 and 1 and at least one resample, not {level} and "
            f"{resamples}."
        )


def _expanded_tail(level: float, count: int) -> float:
    """Return the share of resamples to leave out at either end.

    A mean of resampled pieces varies by sqrt((n - 1) / n) of what the mean of new ones would, and
    with few pieces Student's distribution takes the place of the normal one.
    """
    freedom = count - 1
    z = NormalDist().inv_cdf((1 + level) / 2)
    # Student's quantile as a series in 1 / freedom (Abramowitz and Stegun 26.7.5).
    student = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return NormalDist().cdf(-student * math.sqrt(count / freedom))
