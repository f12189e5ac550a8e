"""What repair takes off the gap to the dense model, in sentences below the table of ``survey``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    found: dict[tuple[str, float], list[Pair]] = {}
    rows = list(_chosen(report))
    for place, label, choice, repair, perplexity in rows:
        if repair != "none":
            continue
        for other_place, _label, other, other_repair, after in rows:
            if (other_place, other) == (place, choice) and other_repair != "none":
                found.setdefault(place, []).append(Pair(label, perplexity, after))
    return found


def _chosen(
    report: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, float], str, str, str, float]]:
    """Yield of every row where it belongs, its label, what it chose by, its repair, and the end."""
    for row in report["rows"]:
        yield (
            (row["pattern"], row["asked"]),
            row["label"],
            f"{row['recipe']['scoring']}",
            row["recipe"]["repair"],
            row["quality"]["perplexity"],
        )
