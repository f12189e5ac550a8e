"""Exact numbers: the sparsity and the lock of every site in a table that takes pasted cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app import state
from app.components.sharing import places_of
from app.results import OnBench
from app.tables import sparsity_table
from app.words import lane_name
from pruning_core.planning.plan import UnitPlan
from pruning_core.recipe import Recipe, SiteKey, SiteKind

if TYPE_CHECKING:
    from pruning_core.planning.plan import Plan

HEIGHT = 470


def draw_table(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Draw the table; what is typed or pasted into it becomes the recipe."""
    places = {place.key: place for place in places_of(model, recipe)}
    shares = {key: place.snap(recipe.at(key)) for key, place in places.items()}
    rows = sparsity_table(shares, recipe.locks, plan.sites if isinstance(plan, UnitPlan) else {})

    # Another recipe is another table: Streamlit keeps edits by their place, whatever lies there.
    widget = f"table#{recipe.digest}"

    def take() -> None:
        edits = state.component_value(widget)
        sparsity, toggled, refused = read_edits(edits, rows["layer"].tolist(), recipe)
        known = {key: value for key, value in sparsity.items() if key in places}
        state.take_stroke(model, known, toggled & places.keys())
        if refused:
            state.warn(refused)

    columns: dict[str, Any] = {"layer": st.column_config.NumberColumn("Layer", disabled=True)}
    for kind in SiteKind:
        columns |= {
            f"{kind}": st.column_config.NumberColumn(
                f"{lane_name(kind)}, % removed", min_value=0.0, max_value=100.0, format="%.2f"
            ),
            f"{kind} keeps": st.column_config.TextColumn(f"{lane_name(kind)} keeps", disabled=True),
            f"{kind} locked": st.column_config.CheckboxColumn("Locked"),
        }
    st.data_editor(
        rows,
        key=widget,
        on_change=take,
        column_config=columns,
        hide_index=True,
        height=HEIGHT,
        width="stretch",
    )
    st.caption(
        "Cells can be copied from a spreadsheet and pasted here. A site takes the nearest sparsity "
        "it can have."
    )


def read_edits(
    edits: Any, layers: list[int], recipe: Recipe
) -> tuple[dict[SiteKey, float], frozenset[SiteKey], str | None]:
    """Return what a data editor's edits ask for.

    Args:
        edits: as Streamlit keeps them: ``{"edited_rows": {row: {column: value}}}``.
        layers: of the rows.
        recipe: as the table was drawn from.

    Returns:
        New sparsities of sites that were not locked or no longer are, the locks to flip, and what
        was refused and why.
    """
    sparsity: dict[SiteKey, float] = {}
    toggled = set()
    refused = None
    for row, cells in edits.get("edited_rows", {}).items():
        for kind in SiteKind:
            key = SiteKey(layers[int(row)], kind)
            if f"{kind} locked" in cells and bool(cells[f"{kind} locked"]) != (key in recipe.locks):
                toggled.add(key)
            if str(kind) not in cells:
                continue
            if key in recipe.locks and key not in toggled:
                refused = f"Site {key} is locked and keeps its sparsity. Unlock it to change it."
                continue
            percentage = cells[str(kind)]
            number = isinstance(percentage, int | float) and not isinstance(percentage, bool)
            if number and 0 <= percentage <= 100:
                sparsity[key] = percentage / 100
            else:
                refused = (
                    f"What was entered for site {key} ({percentage}) is not the percentage that is "
                    "removed from it: write a number from 0 to 100."
                )
    return sparsity, frozenset(toggled), refused
