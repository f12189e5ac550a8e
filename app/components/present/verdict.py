"""Measured numbers as people say them who decide and do not measure. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from app.words import percent, size


class Verdict(NamedTuple):
    """What became of a model, in a few words; `colour` is one that Streamlit names."""

    words: str
    colour: str


HARDLY_CHANGED, NOTICEABLY_WORSE = 1.05, 2.0
"""Up to so many times the dense perplexity a model is hardly changed, or noticeably worse.

Read off what the demo writes after three sentences, at fifteen sizes. Up to 1.04 times it says
other things, as right as before: Paris is the capital of France. At 1.06 and 1.1 it is "the capital
of the world"; to 1.25 it goes round in circles, in good English. From 2.1 on what it says has
nothing to do with the question. Large models bear more: Llama 7B at 2:4, twice its perplexity, is
still of some use. So the words may be too hard on a large model, never too kind to a small one.
"""

NOISE = 0.05
"""By so much two timings of one model may differ on a computer that others use as well."""

_BYTES = {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}


def verdict(perplexity: float, dense: float) -> Verdict:
    """Return what a perplexity means beside the dense one, both measured on the same text."""
    ratio = perplexity / dense if math.isfinite(perplexity) and math.isfinite(dense) else math.inf
    if ratio <= HARDLY_CHANGED:
        return Verdict("Hardly changed", "green")
    if ratio <= NOTICEABLY_WORSE:
        return Verdict("Noticeably worse", "orange")
    return Verdict("Broken", "red")


def faster(ratio: float) -> Verdict:
    """Return a speed in words.

    Args:
        ratio: to the dense model's speed.
    """
    if ratio > 1 + NOISE:
        return Verdict(f"{percent(ratio - 1, 0)} faster", "green")
    if ratio < 1 - NOISE:
        return Verdict(f"{percent(1 - ratio, 0)} slower", "orange")
    return Verdict("No faster", "gray")


def smaller(before: float, after: float) -> Verdict:
    """Return what became of a size in bytes."""
    saved = 1 - after / before
    if round(100 * saved) == 0:
        return Verdict("no smaller", "gray")
    if saved > 0:
        return Verdict(f"{percent(saved, 0)} smaller", "green")
    return Verdict(f"{percent(-saved, 0)} larger", "orange")


def fewer(before: float, after: float) -> str:
    """Return what became of a share that is right, before and after as on screen."""
    difference = round(100 * before) - round(100 * after)
    if not difference:
        return "as often as before"
    return f"{abs(difference)} in 100 {'fewer' if difference > 0 else 'more'}"


def sizes(before: float, after: float) -> str:
    """Return two sizes in bytes, both in the unit of the first: ``269 → 190 MB``."""
    value, unit = size(before).split(" ")
    if size(before) == size(after):
        return size(before)
    scaled = after / _BYTES[unit]
    digits = max(0, 3 - len(str(int(scaled))))
    return f"{value} → {scaled:.{digits}f} {unit}"


def shares(before: float, after: float) -> str:
    """Return two shares: ``43 → 29 %``."""
    first, second = round(100 * before), round(100 * after)
    return f"{first} %" if first == second else f"{first} → {second} %"
