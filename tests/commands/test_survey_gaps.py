"""The gap that repair closes, on a table made up so that it can be worked out by hand."""

from __future__ import annotations

from typing import Any

from pruning_core.commands.survey_gaps import closed_gaps


def row(
    name: str, repair: str, perplexity: float, asked: float = 0.5, pattern: str = "structured"
) -> dict[str, Any]:
    return {
        "label": name if repair == "none" else f"{name} + {repair}",
        "pattern": pattern,
        "asked": asked,
        "recipe": {"scoring": {"estimator": name}, "repair": repair},
        "quality": {"perplexity": perplexity},
    }


def report(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"dense": {"quality": {"perplexity": 20.0}}, "rows": rows}


def test_the_best_after_repair_says_what_share_of_its_gap_is_gone() -> None:
    made = report(
        row("first", "none", 60.0),
        row("first", "ridge", 50.0),
        row("second", "none", 70.0),
        row("second", "ridge", 30.0),
        row("first", "none", 25.0, 0.2),
        row("first", "ridge", 26.0, 0.2),
    )
    half, fifth = closed_gaps(made)
    assert half == (
        "Repair, structured at 50%: lower in 2 of 2; the best is second, 70.00 before and 30.00 "
        "after, which is 80.0% of the gap to the dense 20.00."
    )
    assert "lower in 0 of 1" in fifth
    assert "-20.0% of the gap" in fifth


def test_only_what_was_measured_both_ways_is_compared() -> None:
    made = report(
        row("first", "none", 60.0),
        row("second", "ridge", 50.0),
        row("first", "ridge", 50.0, pattern="2:4"),
    )
    assert closed_gaps(made) == []
