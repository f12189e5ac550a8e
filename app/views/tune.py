"""Tune: set the sparsity of every site, and see what the pruned model is worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import figures, state
from app.components.bench import require_model, score_button
from app.components.numbers import numbers_panel
from app.components.probe import probe_controls
from app.components.settings import parameter_controls
from app.components.sharing import draw_sharing, places_of
from app.components.sites import draw_sites
from app.components.writing import writing_panel
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.importance import Needs, SiteScores
from pruning_core.importance.registry import estimator, estimators
from pruning_core.model.anatomy import Part
from pruning_core.planning.plan import SitePlan, UnitPlan
from pruning_core.recipe import (
    STRUCTURED,
    Pattern,
    PatternKind,
    Recipe,
    Repair,
    SiteKind,
)

BINS = 128
PATTERNS = {"structured": "Whole units", "unstructured": "Single weights"}
OFFERED = [*PATTERNS, "2:4", "4:8"]
FIRST_CHOICE = {PatternKind.STRUCTURED: "fine"}
REPAIRS = {Repair.NONE: "No repair", Repair.BIAS: "Bias (FLAP)"}


def draw_source(model: OnBench, recipe: Recipe) -> None:
    """Draw what leaves, what ranks it, and what the numbers are measured on."""
    first, left, middle, right = st.columns([1.3, 2, 2, 1], vertical_alignment="bottom")

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
    repair = present.repair if pattern == STRUCTURED else Repair.NONE
    changed = replace(present, pattern=pattern, scoring=scoring, repair=repair)
    if pattern.kind is PatternKind.N_OF_M:
        share = pattern.n / pattern.m
        changed = replace(changed, sparsity=tuple((key, share) for key, _ in present.sparsity))
    state.change(model, changed)


def draw_repair(model: OnBench, recipe: Recipe) -> None:
    """Draw the choice of a repair, where the estimator gathers what it needs."""
    scores = ENGINE.map(model.fingerprint, recipe.scoring)
    if scores is None or not scores.means:
        return

    def take(name: str) -> None:
        state.change(model, replace(state.recipe(model), repair=Repair(name)))

    st.segmented_control(
        "Repair",
        list(REPAIRS),
        key=state.control("repair", recipe.repair),
        format_func=lambda name: REPAIRS[Repair(name)],
        on_change=state.moving("repair", take),
        required=True,
        help="A bias stands in for what the units that leave contributed on average.",
    )


def draw_map(plan: UnitPlan) -> None:
    """Draw the importance map with the cut line on it."""
    scores = ENGINE.map(plan.recipe.fingerprint, plan.recipe.scoring)
    if scores is None:
        return
    lanes = {}
    for kind in SiteKind:
        sites = plan.anatomy.of_kind(kind)
        vectors = [_kept_first(scores.sites[s.key], plan.sites[s.key]) for s in sites]
        kept = [1 - _gone(plan.sites[site.key]) for site in sites]
        matrix = figures.columns(vectors, BINS) if vectors else np.zeros((0, 0), np.float32)
        lanes[kind] = (matrix, [s.key.layer for s in sites], kept)
    mlp, attention = lanes[SiteKind.MLP], lanes[SiteKind.ATTENTION]
    figure = figures.cut_map(mlp[0], attention[0], mlp[1], attention[1], mlp[2], attention[2])
    st.plotly_chart(
        figure,
        key="cut-map",
        config={"displayModeBar": False},
        alt="Importance of all units with the line below which they are removed",
    )
    st.caption(
        "Each column is a layer, its units sorted by importance; what lies under the red line is "
        "gone. Attention shows query heads: those of a group that leaves go with it, whatever they "
        "are worth themselves."
    )


def draw_shares(model: OnBench, recipe: Recipe) -> None:
    """Draw what fraction of the single weights leaves every site."""
    places = places_of(model, recipe)
    lanes = {
        kind: {p.key.layer: p.snap(recipe.at(p.key)) for p in places if p.key.kind is kind}
        for kind in SiteKind
    }
    st.plotly_chart(
        figures.shares(lanes[SiteKind.ATTENTION], lanes[SiteKind.MLP], model.anatomy.layers),
        key="shares",
        config={"displayModeBar": False},
        alt="The fraction of weights that becomes zero at every site",
    )
    st.caption(
        "The fraction of weights that becomes zero. They stay where they are and are multiplied "
        "like any other: nothing gets smaller or faster by itself. Which ones go is chosen when "
        "the recipe is measured, layer by layer."
    )


def _kept_first(scores: SiteScores, plan: SitePlan) -> npt.NDArray[np.float32]:
    """Return a site's scores, those that stay before those that go, each falling."""
    values = scores.ranked.numpy()
    stays = np.zeros(len(values), bool)
    stays[plan.kept[Part.CHANNEL if scores.heads is None else Part.QUERY_HEAD].numpy()] = True
    return np.concatenate([-np.sort(-values[stays]), -np.sort(-values[~stays])])


def _gone(plan: SitePlan) -> float:
    """Return the fraction of units, or of query heads, that leaves a site."""
    site, width = plan.site, plan.width
    if site.key.kind is SiteKind.MLP:
        return 1 - width.units / site.units
    return 1 - width.units * width.heads / (site.units * site.heads_per_unit)


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
    map_side, slider_side = st.columns([1, 1], gap="medium")
    with map_side:
        if isinstance(resolved, UnitPlan):
            draw_map(resolved)
            draw_repair(bench, present)
        else:
            draw_shares(bench, present)
    with slider_side:
        draw_sites(bench, present, resolved)
    writing_panel(bench, present)
