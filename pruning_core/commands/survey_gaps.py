"""What repair takes off the gap to the dense model, in sentences below the table of ``survey``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """One choice of what leaves, before and after a repair; perplexities."""

    label: str
    before: float
    after: float


def closed_gaps(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every pattern and sparsity that was measured with and without repair.

    The gap is the perplexity over the dense one.

    Args:
        report: of a survey, with its rows.
    """
    dense = report["dense"]["quality"]["perplexity"]
    sentences = []
    for (pattern, asked), pairs in _pairs(report).items():
        lowered = sum(pair.after < pair.before for pair in pairs)
        best = min(pairs, key=lambda pair: pair.after)
        share = (best.before - best.after) / (best.before - dense)
        sentences.append(
            f"Repair, {pattern} at {asked:.0%}: lower in {lowered} of {len(pairs)}; the best is "
            f"{best.label}, {best.before:.2f} before and {best.after:.2f} after, which is "
            f"{share:.1%} of the gap to the dense {dense:.2f}."
        )
    return sentences


def _pairs(report: Mapping[str, Any]) -> dict[tuple[str, float], list[Pair]]:
    """Return the pairs by pattern and asked sparsity."""
    after: dict[object, list[float]] = {}
    for row in report["rows"]:
        if row["recipe"]["repair"] != "none":
            after.setdefault(_choice(row), []).append(row["quality"]["perplexity"])
    found: dict[tuple[str, float], list[Pair]] = {}
    for row in report["rows"]:
        if row["recipe"]["repair"] != "none":
            continue
        for perplexity in after.get(_choice(row), ()):
            pair = Pair(row["label"], row["quality"]["perplexity"], perplexity)
            found.setdefault((row["pattern"], row["asked"]), []).append(pair)
    return found


def _choice(row: Mapping[str, Any]) -> tuple[str, float, str]:
    """Return what chose the units or weights of a row, and how many."""
    return row["pattern"], row["asked"], f"{row['recipe']['scoring']}"
