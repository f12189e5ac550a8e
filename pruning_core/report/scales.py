"""Scales of charts: where a number lies on an axis, and which numbers to write beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDE = 20
"""Numbers that differ by more than this factor are drawn on a logarithmic axis."""

_FURTHEST = 700
"""The logarithm of what a float still holds."""

_STEPS = (1, 2, 2.5, 5, 10)
_IN_A_DECADE = ((1.2, (1, 1.5, 2, 3, 5, 7)), (2.5, (1, 2, 5)), (4.5, (1, 3)))
"""Which multiples of the powers of ten are written, by how many decades there are."""


@dataclass(frozen=True)
class Scale:
    """An axis from one number to another, between two places of a drawing.

    Attributes:
        low, high: the numbers at its ends, `low` below `high`; above 0 where it is logarithmic.
        start, end: where these two lie, in the drawing's units.
        log: whether equal distances are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where a number lies; one beyond the ends lies at the end."""
        low, high, here = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return self.start + (here - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Return round numbers on the axis, about so many."""
        return _powers(self.low, self.high, about) if self.log else _steps(self, about)


def scale_for(
    values: Iterable[float], start: float, end: float, *, log: bool | None = None
) -> Scale:
    """Return a scale on which numbers have some room at both ends.

    Args:
        values: finite, at least one.
        start, end: where the axis ends, in the drawing's units.
        log: whether it is logarithmic; None leaves that to how wide the numbers are.
    """
    found = [*values]
    low, high = min(found), max(found)
    if log is None:
        log = low > 0 and high / low > WIDE
    if log:
        first, last = math.log(low), math.log(high)
        room = (last - first) * 0.06 or math.log(1.5)
        least, most = max(first - room, -_FURTHEST), min(last + room, _FURTHEST)
        return Scale(math.exp(least), math.exp(most), start, end, log=True)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places near the wanted ones, in their order, at least `gap` apart.

    They lie between `low` and `high` wherever these leave room for them.
    """
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    places = [0.0] * len(wanted)
    free = low
    for at in order:
        places[at] = max(wanted[at], free)
        free = places[at] + gap
    free = high
    for at in reversed(order):
        places[at] = min(places[at], free)
        free = places[at] - gap
    return places


def _steps(scale: Scale, about: int) -> list[float]:
    span = (scale.high - scale.low) / about
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * multiple for multiple in _STEPS if power * multiple >= span * 0.999)
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _powers(low: float, high: float, about: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = math.log10(high) - math.log10(low)
    multiples = next((found for most, found in _IN_A_DECADE if decades <= most), (1,))
    every = max(1, math.ceil((last - first) / (2 * about))) if multiples == (1,) else 1
    found = [
        multiple * 10.0**power
        for power in range(first, last + 1, every)
        for multiple in multiples
        if low <= multiple * 10.0**power <= high
    ]
    # Within a small part of a decade there may be no round number: even steps do then.
    return found if len(found) > 1 else _steps(Scale(low, high, 0, 1), about)
