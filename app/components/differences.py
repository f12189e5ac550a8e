"""Whether runs differ by more than noise: from dense, from each other, and by which metric."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app import run_figures
from app.words import change
from pruning_core.evaluation.differences import between, disagreements, over_dense
from pruning_core.evaluation.intervals import Interval, perplexity_of
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.history import SavedRun


def over_dense_words(run: SavedRun) -> str:
    """Return by how much a run's perplexity exceeds the dense model's, with the interval."""
    found = over_dense(run)
    return "" if found is None else f" · over dense, window by window: {_words(found)}"


def draw_over_dense(runs: Sequence[SavedRun]) -> None:
    """Draw how far runs that were measured alike are from dense, each with its interval."""
    found = {run.id: interval for run in runs if (interval := over_dense(run)) is not None}
    if not found:
        return
    with st.expander("Perplexity over dense, with intervals", icon=":material/straighten:"):
        spans = [
            run_figures.Span(run.label, *_ratios(found[run.id])) for run in runs if run.id in found
        ]
        st.plotly_chart(
            run_figures.over_dense(spans),
            key="over-dense",
            config={"displayModeBar": False},
            alt=f"Perplexity of {len(spans)} runs as multiples of the dense model's",
        )
        st.caption(
            "95 % intervals, bootstrapped over the windows and paired with dense on the same ones. "
            "Intervals that overlap can still differ: two runs are compared window by window below."
        )


def draw_between(run: SavedRun, other: SavedRun) -> None:
    """Say how the perplexities of two runs differ, and whether that is more than noise."""
    found = between(run, other)
    if found is not None:
        st.text(
            f"Perplexity of {run.label} against {other.label}, window by window: {_words(found)}."
        )
    elif run.conditions != other.conditions:
        st.text(
            "They were not measured alike, so their perplexities are not compared: "
            f"{run.label} by {run.conditions}, {other.label} by {other.conditions}."
        )
    else:
        st.text("What their windows measured was not kept, so noise cannot be told from change.")


def draw_disagreements(runs: Sequence[SavedRun]) -> None:
    """Warn where perplexity and a task rank two runs differently, both beyond noise."""
    for found in disagreements(runs):
        st.warning(
            f"Perplexity prefers {found.better_perplexity.label}, {TASKS[found.task].title} "
            f"({found.metric}) prefers {found.better_task.label}, both beyond noise. Which is "
            "better depends on what it is for.",
            icon=":material/swap_vert:",
        )


def _words(loss: Interval) -> str:
    value, low, high = (ratio - 1 for ratio in _ratios(loss))
    verdict = "more than noise" if loss.beyond_noise else "within noise"
    return f"{change(value)} (95 %: {change(low)} to {change(high)}), {verdict}"


def _ratios(loss: Interval) -> tuple[float, float, float]:
    """Return a difference of losses as a ratio of perplexities: value, low, high."""
    return perplexity_of(loss.value), perplexity_of(loss.low), perplexity_of(loss.high)
