"""Intervals: they cover as often as they say, and a paired test sees a planted difference."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import Interval, bootstrap, paired

Draw = Callable[[np.random.Generator, int], np.ndarray]

KINDS: dict[str, tuple[Draw, float]] = {
    "losses": (lambda draw, n: draw.normal(3.0, 0.4, n), 3.0),
    "items": (lambda draw, n: (draw.random(n) < 0.35).astype(float), 0.35),
    "skewed": (lambda draw, n: draw.exponential(1.0, n), 1.0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [50, 200])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_cover_as_often_as_they_say(kind: str, count: int, level: float) -> None:
    make, truth = KINDS[kind]
    draw, trials = np.random.default_rng(0), 600
    hits = 0
    for trial in range(trials):
        found = bootstrap(make(draw, count), level=level, resamples=500, seed=trial)
        hits += found.low <= truth <= found.high
    # Three standard errors of the trials themselves, and a hundredth for skew.
    assert abs(hits / trials - level) <= 3 * math.sqrt(level * (1 - level) / trials) + 0.01


def test_few_windows_of_different_weight_are_covered_too() -> None:
    draw, trials, hits = np.random.default_rng(1), 600, 0
    for trial in range(trials):
        weights = draw.integers(50, 500, 8)
        found = bootstrap(draw.normal(2, 0.3, 8), weights, resamples=500, seed=trial)
        hits += found.low <= 2 <= found.high
    assert 0.90 <= hits / trials <= 0.98


def test_a_planted_difference_is_found_and_none_is_not() -> None:
    draw, trials = np.random.default_rng(2), 300
    found = false = 0
    for trial in range(trials):
        hard = draw.normal(3, 0.6, 100)
        dense = hard + draw.normal(0, 0.02, 100)
        same, worse = (hard + draw.normal(shift, 0.02, 100) for shift in (0, 0.012))
        found += paired(dense, worse, resamples=500, seed=trial).beyond_noise
        false += paired(dense, same, resamples=500, seed=trial).beyond_noise
    # The windows differ fifty times more among each other than the two models do on each.
    assert found / trials > 0.95
    assert false / trials < 0.09


def test_items_are_paired_too() -> None:
    draw = np.random.default_rng(3)
    right = (draw.random(1000) < 0.6).astype(float)
    worse = right.copy()
    worse[np.flatnonzero(right)[:20]] = 0
    drop = paired(right, worse)
    assert drop.value == pytest.approx(-0.02)
    assert drop.beyond_noise
    assert drop.high - drop.low < 0.03
    alone = bootstrap(worse)
    assert alone.low < right.mean() < alone.high, "unpaired, the two could be the same"


def test_nothing_between_equals() -> None:
    assert paired([1, 2, 3], [1, 2, 3]) == Interval(0, 0, 0)
    assert not paired([1, 2, 3], [1, 2, 3]).beyond_noise


def test_the_mean_is_weighted_and_the_same_seed_draws_the_same() -> None:
    values, weights = [1.0, 2.0, 4.0, *range(20)], [1, 1, 2, *[0.5] * 20]
    first = bootstrap(values, weights, seed=5)
    assert first.value == pytest.approx((11 + 0.5 * 190) / 14)
    assert first == bootstrap(values, weights, seed=5)
    assert first != bootstrap(values, weights, seed=6)
    assert first.low < first.value < first.high


def test_many_items_are_drawn_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(300)
    whole = bootstrap(values)
    monkeypatch.setattr("pruning_core.evaluation.intervals._AT_ONCE", 1000)
    parts = bootstrap(values)
    assert parts.low == pytest.approx(whole.low, abs=0.01)
    assert parts.high == pytest.approx(whole.high, abs=0.01)


def test_a_rising_function_moves_the_ends_along() -> None:
    moved = Interval(1.0, 0.0, 2.0).mapped(math.exp)
    assert (moved.value, moved.low, moved.high) == (math.e, 1.0, math.exp(2))


def test_one_piece_has_no_interval() -> None:
    assert bootstrap([2.0]) == Interval(2.0, -math.inf, math.inf)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([], {}, "nothing measured"),
        ([1.0, math.nan], {}, "not a finite number"),
        ([1.0, math.inf], {}, "not a finite number"),
        ([1.0, 2.0], {"level": 1.0}, "level between 0 and 1"),
        ([1.0, 2.0], {"weights": [1.0]}, "nothing measured"),
    ],
)
def test_what_has_no_interval_gets_a_sentence(
    values: list[float], options: dict[str, object], said: str
) -> None:
    with pytest.raises(PrunescopeError, match=said):
        bootstrap(values, **options)  # type: ignore[arg-type]


def test_pieces_that_do_not_pair_are_refused() -> None:
    with pytest.raises(PrunescopeError, match="here are 2 and 3"):
        paired([1, 2], [1, 2, 3])
