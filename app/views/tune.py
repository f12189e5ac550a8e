"""Tune: set the sparsity of every site, and see what the pruned model is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from app import state
from app.components.bench import require_model, score_button
from app.components.budget import draw_budget
from app.components.curves import draw_curves
from app.components.numbers import numbers_panel
from app.components.probe import probe_controls
from app.components.sample import sample_controls
from app.components.settings import parameter_controls
from app.components.shape import draw_shape
from app.components.sharing import draw_sharing
from app.components.sites import draw_sites
from app.components.table import draw_table
from app.components.writing import writing_panel
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.importance import Needs
from pruning_core.importance.registry import estimator, estimators
from pruning_core.planning.plan import Plan, UnitPlan
from pruning_core.recipe import (
    STRUCTURED,
    Pattern,
    PatternKind,
    Recipe,
)
from pruning_core.repair import NO_REPAIR, Repair, RepairKind

PATTERNS = {"structured": "Whole units", "unstructured": "Single weights"}
OFFERED = [*PATTERNS, "2:4", "4:8"]
FIRST_CHOICE = {PatternKind.STRUCTURED: "fine"}
REPAIRS = {
    "none": "No repair",
    "bias": "Bias (FLAP)",
    "ridge:prefix=dense": "Ridge",
    "ridge": "Ridge, layer by layer",
}
REPAIRS_OF_WEIGHTS = {"none": "No repair", "ridge": "Ridge"}
REPAIR_HELP = (
    "What stays makes up for what leaves. Bias: what the units that leave contributed on average. "
    "Ridge: what reads the units is solved again on those that stay, from one look at the text. "
    "Layer by layer: each is solved on what it really gets once all before it are pruned, which "
    "takes a walk through the model at every measurement; predictions go by Ridge then."
)
REPAIR_OF_WEIGHTS_HELP = (
    "Ridge: every matrix is solved again on the weights that stay, layer by layer. Zeros stay zero."
)
WEIGHTS = (
    "What is greyed is the fraction of weights that becomes zero. They stay where they are and are "
    "multiplied like any other: nothing gets smaller or faster by itself. Which ones go is chosen "
    "when the recipe is measured, layer by layer."
)
PANELS: dict[str, tuple[str, Callable[[OnBench, Recipe, Plan | None], None]]] = {
    "sliders": ("Sliders", draw_sites),
    "table": ("Exact numbers", draw_table),
    "budget": ("Find the best shape", draw_budget),
    "curves": ("What each site costs", draw_curves),
}
BY_HAND = ("sliders", "table")
"""The panels that single weights have too: nothing is predicted for those."""


def draw_source(model: OnBench, recipe: Recipe) -> None:
    """Draw what leaves, what ranks it, and what the numbers are measured on."""
    widths = [1.2, 1.7, 1.9, 1.5, 1.2]
    first, left, middle, accuracy, right = st.columns(widths, vertical_alignment="bottom")

    def take_estimator(name: str) -> None:
        state.change(model, replace(state.recipe(model), scoring=state.scoring(name)))

    first.selectbox(
        "What leaves",
        OFFERED if str(recipe.pattern) in OFFERED else [*OFFERED, str(recipe.pattern)],
        key=state.control("pattern", str(recipe.pattern)),
        format_func=lambda name: PATTERNS.get(name, name),
        on_change=state.moving("pattern", lambda text: take_pattern(model, text)),
        accept_new_options=True,
        help="Whole units: tensors shrink. Single weights become zero; with 2:4, two of every four "
        "do. Type another n:m for any other pattern.",
    )
    left.selectbox(
        "Ranked by",
        [method.name for method in estimators(recipe.pattern.kind)],
        key=state.control("ranked-by", recipe.scoring.estimator),
        format_func=lambda name: estimator(name).title,
        on_change=state.moving("ranked-by", take_estimator),
    )
    probe_controls(middle, right)
    sample_controls(accuracy)
    method = estimator(recipe.scoring.estimator)
    if method.parameters:
        with st.expander(f"Settings of {method.title}"):
            parameter_controls(method, then=lambda: take_estimator(method.name))


def take_pattern(model: OnBench, text: str) -> None:
    """Let something else leave; an estimator that has no word on it makes way for one that has."""
    try:
        pattern = Pattern.parse(text)
    except PrunescopeError as error:
        state.warn(str(error))
        return
    state.dismiss()
    present = state.recipe(model)
    scoring = present.scoring
    if not estimator(scoring.estimator).follows(pattern.kind):
        scoring = state.scoring(FIRST_CHOICE.get(pattern.kind, "wanda"))
    repair = present.repair
    if pattern != STRUCTURED:
        ridge = repair.kind is RepairKind.RIDGE
        repair = Repair(repair.kind, repair.damping) if ridge else NO_REPAIR
    changed = replace(present, pattern=pattern, scoring=scoring, repair=repair)
    if pattern.kind is PatternKind.N_OF_M:
        share = pattern.n / pattern.m
        changed = replace(changed, sparsity=tuple((key, share) for key, _ in present.sparsity))
    state.change(model, changed)


def draw_repair(model: OnBench, recipe: Recipe) -> None:
    """Draw the choice of a repair."""
    units = recipe.pattern == STRUCTURED
    repairs = REPAIRS if units else REPAIRS_OF_WEIGHTS
    chosen = str(recipe.repair)

    def take(name: str) -> None:
        state.change(model, replace(state.recipe(model), repair=Repair.parse(name)))

    st.segmented_control(
        "Repair",
        list(repairs) if chosen in repairs else [*repairs, chosen],
        key=state.control("repair", chosen),
        format_func=lambda name: repairs.get(name, name),
        on_change=state.moving("repair", take),
        required=True,
        help=REPAIR_HELP if units else REPAIR_OF_WEIGHTS_HELP,
    )


def draw_panels(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Draw one of the ways to set and to find sparsities, as chosen."""
    panels = PANELS if isinstance(plan, UnitPlan) else {name: PANELS[name] for name in BY_HAND}
    chosen = state.choice("panel") if state.choice("panel") in panels else BY_HAND[0]
    st.segmented_control(
        "Beside the mouse",
        list(panels),
        key=state.control("panel", chosen),
        format_func=lambda name: panels[name][0],
        on_change=state.keep("panel", "panel"),
        required=True,
        label_visibility="collapsed",
    )
    panels[chosen][1](model, recipe, plan)


def draw_scoring(model: OnBench, recipe: Recipe) -> None:
    """Draw the button that makes the importance map."""
    method = estimator(recipe.scoring.estimator)
    score_button(model, f"Score {method.title}", (recipe.scoring,))
    st.caption(
        f"{method.summary} "
        + (
            "Its importance map has to be made once; then every sparsity is a cut through it."
            if method.needs is not Needs.NOTHING
            else ""
        )
    )


bench = require_model()
state.follow_maps(bench)
present = state.recipe(bench)
draw_source(bench, present)
resolved = ENGINE.plan(present)
if resolved is None and present.pattern == STRUCTURED:
    draw_scoring(bench, present)
else:
    numbers_panel(bench, present, resolved)
    draw_sharing(bench, present, resolved)
    draw_shape(bench, present, resolved)
    draw_repair(bench, present)
    if not isinstance(resolved, UnitPlan):
        st.caption(WEIGHTS)
    draw_panels(bench, present, resolved)
    writing_panel(bench, present)
