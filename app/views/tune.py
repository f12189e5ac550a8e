"""Tune: set the sparsity of every site, and see what the pruned model is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import figures, state
from app.components.bench import require_model
from app.components.numbers import numbers_panel
from app.components.settings import parameter_controls
from app.components.writing import writing_panel
from app.engine import ENGINE
from app.results import OnBench
from app.tables import width_words
from app.words import percent
from pruning_core.evaluation.protocol import PROTOCOLS
from pruning_core.importance import Needs, SiteScores
from pruning_core.importance.registry import estimator, estimators
from pruning_core.model.anatomy import Part
from pruning_core.planning.allocation import protect_ends, uniform
from pruning_core.planning.plan import Plan, SitePlan
from pruning_core.recipe import Recipe, SiteKey, SiteKind

BINS = 128
ENDS = 3
SHAPES = ("uniform", "protect the ends")
SLIDER_HEIGHT = 470


def allot(model: OnBench, recipe: Recipe, overall: float, shape: str) -> Mapping[SiteKey, float]:
    """Return the sparsities of a preset around what is locked."""
    locked = {site: recipe.at(site) for site in recipe.locks}
    if shape == "uniform":
        return uniform(model.anatomy, overall, locked)
    ends = min(ENDS, (model.anatomy.layers - 1) // 2)
    return protect_ends(model.anatomy, overall, ends, locked)


def draw_source(model: OnBench, recipe: Recipe) -> None:
    """Draw what ranks the units and what the numbers are measured on."""
    left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
    names = [method.name for method in estimators()]

    def take_estimator(name: str) -> None:
        state.change(model, replace(state.recipe(model), scoring=state.scoring(name)))

    left.selectbox(
        "Rank units by",
        names,
        key=state.control("ranked-by", recipe.scoring.estimator),
        format_func=lambda name: estimator(name).title,
        on_change=state.moving("ranked-by", take_estimator),
    )
    probes = [name for name in PROTOCOLS if name.startswith("probe")]
    middle.selectbox(
        "Measure on",
        probes,
        key=state.control("probe", state.choice("probe")),
        format_func=lambda name: PROTOCOLS[name].title,
        on_change=state.keep("probe", "probe"),
    )
    right.toggle(
        "Allow a leak",
        key=state.control("allow-leak", state.choice("allow_leak")),
        on_change=state.keep("allow_leak", "allow-leak"),
        help="Measure even if the calibration text overlaps the measured one. Every number is then "
        "marked: it flatters.",
    )
    method = estimator(recipe.scoring.estimator)
    if method.parameters:
        with st.expander(f"Settings of {method.title}"):
            parameter_controls(method, then=lambda: take_estimator(method.name))


def draw_master(model: OnBench, recipe: Recipe, plan: Plan) -> None:
    """Draw the master slider, the presets, undo and redo."""
    left, right = st.columns([1, 1], gap="medium", vertical_alignment="bottom")

    def take_master(percentage: int) -> None:
        shape = state.choice("shape")
        state.change_sparsity(model, allot(model, state.recipe(model), percentage / 100, shape))

    left.slider(
        f"Overall sparsity: {percent(plan.sparsity, 2)} of the prunable parameters, "
        f"{percent(plan.sparsity_of_all, 2)} of all",
        0,
        95,
        key=state.control("master", min(round(100 * plan.sparsity), 95)),
        format="%d%%",
        on_change=state.moving("master", take_master),
    )

    def preset(shape: str) -> Callable[[], None]:
        def take() -> None:
            state.remember("shape", shape)
            state.change_sparsity(model, allot(model, recipe, plan.sparsity, shape))

        return take

    def clear() -> None:
        keep = recipe.locks
        state.change_sparsity(
            model, {site.key: 0.0 for site in model.anatomy.sites if site.key not in keep}
        )

    with right.container(horizontal=True):
        st.button("Uniform", on_click=preset("uniform"), key="preset-uniform")
        st.button("Protect the ends", on_click=preset("protect the ends"), key="preset-ends")
        st.button("Dense", on_click=clear, key="preset-dense")
        st.button(
            "",
            icon=":material/undo:",
            help="Undo",
            key="undo",
            on_click=lambda: state.undo(model),
            disabled=not state.can_undo(model),
        )
        st.button(
            "",
            icon=":material/redo:",
            help="Redo",
            key="redo",
            on_click=lambda: state.redo(model),
            disabled=not state.can_redo(model),
        )


def draw_map(plan: Plan) -> None:
    """Draw the importance map with the cut line on it."""
    scores = ENGINE.map(plan.recipe.fingerprint, plan.recipe.scoring)
    if scores is None:
        return
    lanes = {}
    for kind in SiteKind:
        sites = plan.anatomy.of_kind(kind)
        vectors = [_kept_first(scores.sites[s.key], plan.sites[s.key]) for s in sites]
        kept = [1 - _gone(plan, site.key) for site in sites]
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


def _kept_first(scores: SiteScores, plan: SitePlan) -> npt.NDArray[np.float32]:
    """Return a site's scores, those that stay before those that go, each falling."""
    values = scores.ranked.numpy()
    stays = np.zeros(len(values), bool)
    stays[plan.kept[Part.CHANNEL if scores.heads is None else Part.QUERY_HEAD].numpy()] = True
    return np.concatenate([-np.sort(-values[stays]), -np.sort(-values[~stays])])


def _gone(plan: Plan, key: SiteKey) -> float:
    """Return the fraction of units, or of query heads, that leaves a site."""
    site, width = plan.sites[key].site, plan.sites[key].width
    if key.kind is SiteKind.MLP:
        return 1 - width.units / site.units
    return 1 - width.units * width.heads / (site.units * site.heads_per_unit)


def draw_sliders(model: OnBench, recipe: Recipe, plan: Plan) -> None:
    """Draw a slider and a lock for every site."""
    with st.container(height=SLIDER_HEIGHT, border=True, key="sliders"):
        for layer in range(model.anatomy.layers):
            for place, kind in zip(st.columns(2, gap="medium"), SiteKind, strict=True):
                key = SiteKey(layer, kind)
                if key in plan.sites:
                    with place:
                        _site_slider(model, recipe, plan, key)


def _site_slider(model: OnBench, recipe: Recipe, plan: Plan, key: SiteKey) -> None:
    site_plan = plan.sites[key]
    widget = f"site-{key}"
    locked = key in recipe.locks
    lane = "attention" if key.kind is SiteKind.ATTENTION else "MLP"
    slider, lock = st.columns([6, 1], gap="small", vertical_alignment="bottom")
    label = f"{key.layer} {lane} · {width_words(site_plan)}"

    def take(share: float) -> None:
        state.change_sparsity(model, {key: share})

    with slider:
        if key.kind is SiteKind.ATTENTION:
            steps = [width.sparsity for width in site_plan.site.ladder]
            st.select_slider(
                label,
                steps,
                key=state.control(widget, site_plan.width.sparsity),
                format_func=lambda share: percent(share, 0),
                on_change=state.moving(widget, take),
                disabled=locked,
                help=f"{site_plan.width.units} of {site_plan.site.units} key/value groups, "
                f"{site_plan.width.heads} of {site_plan.site.heads_per_unit} query heads in each",
            )
        else:
            st.slider(
                label,
                0,
                100,
                key=state.control(widget, round(100 * site_plan.width.sparsity)),
                format="%d%%",
                on_change=state.moving(widget, lambda percentage: take(percentage / 100)),
                disabled=locked,
            )
    lock.button(
        "",
        icon=":material/lock:" if locked else ":material/lock_open:",
        key=f"lock-{key}",
        help="Unlock" if locked else "Lock: masters and presets leave this site alone",
        type="tertiary",
        on_click=lambda: state.toggle_lock(model, key),
    )


bench = require_model()
state.follow_maps(bench)
present = state.recipe(bench)
draw_source(bench, present)
resolved = ENGINE.plan(present)
if resolved is None:
    method = estimator(present.scoring.estimator)
    waiting = state.job("score") is not None
    if st.button(
        f"Score {method.title}",
        type="primary",
        icon=":material/play_arrow:",
        disabled=waiting,
    ):
        state.submit(lambda: ENGINE.score(state.owner(), bench.fingerprint, (present.scoring,)))
        st.rerun()
    st.caption(
        f"{method.summary} "
        + (
            "Its importance map has to be made once; then every sparsity is a cut through it."
            if method.needs is not Needs.NOTHING
            else ""
        )
    )
else:
    numbers_panel(bench, present, resolved)
    draw_master(bench, present, resolved)
    map_side, slider_side = st.columns([1, 1], gap="medium")
    with map_side:
        draw_map(resolved)
    with slider_side:
        draw_sliders(bench, present, resolved)
    writing_panel(bench, present)
