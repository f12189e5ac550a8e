"""The master slider and the presets: one overall sparsity, shared out over the sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.engine import ENGINE
from app.results import OnBench
from app.words import percent
from pruning_core.importance.registry import estimator
from pruning_core.model.anatomy import most_ends
from pruning_core.planning.allocation import (
    Allocation,
    Place,
    allocate,
    overall,
    protect_ends,
)
from pruning_core.planning.thinning import places_for
from pruning_core.recipe import PatternKind, Recipe, SiteKey

if TYPE_CHECKING:
    from pruning_core.planning.plan import Plan

ENDS = 3
ENDS_SHAPE = "ends"
LABELS = {
    Allocation.UNIFORM: ("Uniform", "Every site the same"),
    ENDS_SHAPE: ("Protect the ends", f"The first and last {ENDS} layers stay dense"),
    Allocation.RANKING: ("One ranking", "All units compete, each at its cost in parameters"),
    Allocation.OWL: ("Outliers", "OWL: layers whose weights score far above their mean keep more"),
    Allocation.LAYERS: ("Whole layers", "The least important layers leave as a whole"),
}


def places_of(model: OnBench, recipe: Recipe) -> tuple[Place, ...]:
    """Return where something can leave under a recipe's pattern and estimator."""
    return places_for(model.anatomy, estimator(recipe.scoring.estimator), recipe.pattern)


def draw_sharing(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Draw the master slider, the presets, undo and redo."""
    places = places_of(model, recipe)
    present = overall(places, {place.key: place.snap(recipe.at(place.key)) for place in places})
    _take_waiting(model, recipe)
    left, right = st.columns([4, 5], gap="medium", vertical_alignment="bottom")

    def take_master(percentage: int) -> None:
        _share_out(model, state.recipe(model), percentage / 100, state.choice("shape"))

    fixed = recipe.pattern.kind is PatternKind.N_OF_M
    left.slider(
        _label(model, places, present, plan),
        0,
        95,
        key=state.control("master", min(round(100 * present), 95)),
        format="%d%%",
        on_change=state.moving("master", take_master),
        disabled=fixed,
        help="An n:m pattern is on or off at a site: use the switches." if fixed else None,
    )

    def preset(shape: str) -> Callable[[], None]:
        def take() -> None:
            state.remember("shape", shape)
            share = recipe.pattern.n / recipe.pattern.m if fixed else present
            _share_out(model, recipe, share, shape)

        return take

    def clear() -> None:
        keep = recipe.locks
        state.change_sparsity(model, {p.key: 0.0 for p in places if p.key not in keep})

    with right.container(horizontal=True):
        for shape in _shapes(model, recipe):
            label, about = LABELS[shape]
            st.button(label, on_click=preset(shape), key=f"preset-{shape}", help=about)
        st.button("Dense", on_click=clear, key="preset-dense")
        st.button(
            "",
            icon=":material/undo:",
            help="Undo",
            key="undo",
            on_click=lambda: state.undo(model, recipe),
            disabled=not state.can_undo(model),
        )
        st.button(
            "",
            icon=":material/redo:",
            help="Redo",
            key="redo",
            on_click=lambda: state.redo(model, recipe),
            disabled=not state.can_redo(model),
        )


def _shapes(model: OnBench, recipe: Recipe) -> list[str]:
    """Return the presets that a pattern and an estimator allow."""
    shapes = [str(Allocation.UNIFORM), ENDS_SHAPE]
    if recipe.pattern.kind is not PatternKind.N_OF_M:
        shapes.append(Allocation.OWL)
    if recipe.pattern.kind is PatternKind.STRUCTURED:
        shapes.append(Allocation.RANKING)
        scores = ENGINE.map(model.fingerprint, recipe.scoring)
        if scores is not None and scores.layers is not None:
            shapes.append(Allocation.LAYERS)
    return shapes


def _label(model: OnBench, places: tuple[Place, ...], present: float, plan: Plan | None) -> str:
    """Return the overall sparsity in three bookkeepings; without a plan as it is asked for."""
    if plan is not None:
        targeted, linears, everything = (
            plan.sparsity,
            plan.sparsity_of_linears,
            plan.sparsity_of_all,
        )
    else:
        removed = present * sum(place.size for place in places)
        targeted = present
        linears = removed / model.anatomy.linear_weights
        everything = removed / model.anatomy.parameters
    return (
        f"Overall sparsity: {percent(targeted, 2)} of what can leave, {percent(linears, 2)} of the "
        f"layers' weights, {percent(everything, 2)} of all"
    )


def _share_out(model: OnBench, recipe: Recipe, sparsity: float, shape: str) -> None:
    """Change the recipe to one overall sparsity in one shape, around what is locked."""
    places = places_of(model, recipe)
    locked = {site: recipe.at(site) for site in recipe.locks}
    if shape not in _shapes(model, recipe):
        shape = Allocation.UNIFORM
    if shape == ENDS_SHAPE:
        ends = min(ENDS, most_ends(model.anatomy.layers))
        state.change_sparsity(model, protect_ends(places, sparsity, ends, locked))
        return
    calibration = recipe.scoring.calibration
    outliers = ENGINE.outliers(model.fingerprint, calibration)
    if shape == Allocation.OWL and outliers is None:
        state.remember("waiting", sparsity)
        state.submit(lambda: ENGINE.count_outliers(state.owner(), model.fingerprint, calibration))
        return
    shares: Mapping[SiteKey, float] = allocate(
        Allocation(shape),
        places,
        sparsity,
        locked,
        scores=ENGINE.map(model.fingerprint, recipe.scoring),
        outliers=outliers,
    )
    state.change_sparsity(model, shares)


def _take_waiting(model: OnBench, recipe: Recipe) -> None:
    """Share out what was asked for before the outliers were known."""
    waiting = state.choice("waiting")
    if waiting is None:
        return
    if ENGINE.outliers(model.fingerprint, recipe.scoring.calibration) is not None:
        state.remember("waiting", None)
        _share_out(model, recipe, waiting, Allocation.OWL)
        st.rerun()
    if state.job("outliers") is None:
        state.remember("waiting", None)
