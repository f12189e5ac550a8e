"""What was tried of this model, as one chart."""

from __future__ import annotations

import streamlit as st

from app.components.measuring import latest
from app.engine import ENGINE
from app.present_figures import Tried, quality_by_smaller
from app.results import Measured, OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.recipe import STRUCTURED, Pattern, Recipe


def draw_chart(model: OnBench, recipe: Recipe) -> None:
    """Draw every version that was measured as the latest was; nothing before the first."""
    st.subheader("How good against how small", anchor=False)
    measured = latest(model)
    if measured is None:
        st.caption("Appears with the first numbers.")
        return
    present = _tried(measured) if measured.recipe == recipe and measured.sparsity else None
    st.plotly_chart(
        quality_by_smaller(_before(measured), present),
        key="present-chart",
        config={"displayModeBar": False},
        alt="How often the next word is right, compared with the original, by how much smaller",
    )
    st.caption(
        "Every dot was tried out. Better: how often the next word is right, the original is 100 %."
    )


def _before(measured: Measured) -> list[Tried]:
    """Return the saved runs of a model that can be compared with a measurement of it.

    A history that cannot be read has its own page to say so; here it is as if there were none.
    """
    try:
        runs = ENGINE.history.runs(measured.recipe.fingerprint)
    except PrunescopeError:
        return []
    alike = next((run.conditions for run in runs if run.id == measured.saved), None)
    dense = measured.dense.quality.accuracy
    return [
        _point(run.recipe.pattern, run.parameters / run.dense_parameters, run.accuracy / dense)
        for run in runs
        if dense and run.conditions == alike and not run.leaked
    ]


def _tried(measured: Measured) -> Tried | None:
    """Return a measurement as a dot; None where the original is never right either."""
    dense, pruned = measured.dense, measured.pruned
    if not dense.quality.accuracy:
        return None
    return _point(
        measured.recipe.pattern,
        pruned.cost.parameters / dense.cost.parameters,
        pruned.quality.accuracy / dense.quality.accuracy,
    )


def _point(pattern: Pattern, left: float, right: float) -> Tried:
    """Return a dot; weights that became zero make no model smaller."""
    return Tried(1 - left if pattern == STRUCTURED else 0.0, right)
