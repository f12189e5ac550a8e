"""Compare: the same job with many instruments, where they agree, and why a unit would go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import streamlit as st
import torch

from app import comparison_figures, state
from app.components.bench import require_model
from app.components.polling import polled
from app.components.probe import probe_controls
from app.components.settings import calibration_controls
from app.engine import ENGINE
from app.results import Measured, OnBench
from app.tables import measured_table, standings_table
from app.words import lane_name, percent
from pruning_core.evaluation.protocol import protocol
from pruning_core.importance import ImportanceMap
from pruning_core.importance.compare import correlations, overlap, spread, standings
from pruning_core.importance.registry import estimator, estimators
from pruning_core.planning.allocation import uniform, unit_places
from pruning_core.planning.plan import UnitPlan
from pruning_core.recipe import PatternKind, Recipe, SiteKey, SiteKind

MOST_SEEDS = 8


def draw_choice(model: OnBench) -> list[Recipe]:
    """Draw what is compared and how, and return the recipes: every estimator on every seed."""
    able = [method.name for method in estimators(PatternKind.STRUCTURED)]
    names = st.multiselect(
        "Instruments",
        able,
        key=state.control("instruments", list(state.choice("instruments"))),
        format_func=lambda name: estimator(name).title,
        on_change=state.keep("instruments", "instruments"),
        help="Estimators with the settings they have on the Tune page",
    )
    calibration_controls()
    share, seeds, probe, allow = st.columns([2, 1, 2, 1], vertical_alignment="bottom")
    sparsity = share.slider(
        "Sparsity of every site",
        5,
        80,
        key=state.control("compared-at", state.choice("compared_at")),
        format="%d%%",
        on_change=state.keep("compared_at", "compared-at"),
    )
    count = seeds.number_input(
        "Calibration seeds",
        1,
        MOST_SEEDS,
        key=state.control("compared-seeds", state.choice("compared_seeds")),
        on_change=state.keep("compared_seeds", "compared-seeds"),
        help="With more than one, every estimator is scored on as many draws of the text: what "
        "changes is the instrument's own uncertainty.",
    )
    probe_controls(probe, allow)
    shares = uniform(unit_places(model.anatomy), sparsity / 100)
    dense = Recipe(model.ref, model.fingerprint).with_sparsity(shares)
    calibration = state.calibration()
    return [
        replace(
            dense,
            scoring=replace(
                state.scoring(name), calibration=replace(calibration, seed=calibration.seed + draw)
            ),
        )
        for name in names
        for draw in range(count)
    ]


def draw_measurements(recipes: Sequence[Recipe]) -> None:
    """Draw the button that carries the recipes out, and what they have measured so far."""
    running = state.job("compare") is not None
    if st.button(
        "Score and measure",
        type="primary",
        icon=":material/play_arrow:",
        disabled=running or not recipes,
    ):
        state.submit(
            lambda: ENGINE.compare(
                state.owner(),
                tuple(recipes),
                protocol(state.choice("probe")),
                allow_leak=state.choice("allow_leak"),
            )
        )
        st.rerun()
    polled(_measured, running=running)(tuple(recipes))


def _measured(recipes: Sequence[Recipe]) -> None:
    state.refresh()
    job = state.job("compare")
    partial = job and (job.result or job.partial)
    brought = partial if isinstance(partial, tuple) else state.compared()
    known: dict[Recipe, Measured] = {
        found.recipe: found for found in brought if found.protocol.name == state.choice("probe")
    }
    found = [known[recipe] for recipe in recipes if recipe in known]
    if not found:
        return
    st.dataframe(
        measured_table(found),
        hide_index=True,
        column_config={
            "perplexity": st.column_config.NumberColumn(format="%.3f"),
            "± over seeds": st.column_config.NumberColumn(format="%.3f"),
            "over dense": st.column_config.NumberColumn(format="%.2f ×"),
            "next token right": st.column_config.NumberColumn(format="percent"),
        },
    )
    leak = "**Calibration and measurement text overlap.** " if found[0].leaked else ""
    st.caption(
        f"{leak}{found[0].protocol.title}, dense {found[0].dense.quality.perplexity:.3f}; every "
        f"site at the same sparsity, {percent(found[0].sparsity, 2)} of the prunable parameters."
    )


def draw_agreement(
    plans: Sequence[UnitPlan], maps: Sequence[ImportanceMap], kind: SiteKind
) -> None:
    """Draw how far every two instruments agree on one kind of site."""
    st.subheader("Where they agree")
    names = [scores.scoring.estimator for scores in maps]
    keys = [site.key for site in plans[0].anatomy.of_kind(kind)]
    ranked = torch.stack([correlations(maps, key) for key in keys])
    removed = torch.stack([overlap([plan.removed[key] for plan in plans]) for key in keys])
    left, right = st.columns(2)
    for place, values, title in (
        (left, ranked, "Rank correlation, mean over the layers"),
        (right, removed, "Overlap of what goes, mean over the layers"),
    ):
        figure = comparison_figures.agreement_matrix(
            names, values.mean(0).numpy().astype(np.float32), title
        )
        place.plotly_chart(figure, key=title, config={"displayModeBar": False})
    pairs = list(pairwise(range(len(names)))) + ([(0, len(names) - 1)] if len(names) > 2 else [])
    figure = comparison_figures.per_layer(
        [(names[one], names[other]) for one, other in pairs],
        [key.layer for key in keys],
        np.stack([ranked[:, one, other].numpy() for one, other in pairs]).astype(np.float32),
        "Rank correlation by layer",
    )
    st.plotly_chart(figure, key="by-layer", config={"displayModeBar": False})
    st.caption(
        "Spearman's rank correlation, and Jaccard's overlap of the units that would leave: two "
        "random choices of a fifth overlap by a ninth."
    )


def draw_seeds(maps: Sequence[ImportanceMap], plans: Sequence[UnitPlan], kind: SiteKind) -> None:
    """Say how far each instrument agrees with itself on another draw of the text."""
    by_name: dict[str, list[int]] = {}
    for index, scores in enumerate(maps):
        by_name.setdefault(scores.scoring.estimator, []).append(index)
    rows = []
    for name, indices in by_name.items():
        if len(indices) < 2:
            continue
        spreads = spread([maps[i] for i in indices], [plans[i].removed for i in indices])
        here = [found for key, found in spreads.items() if key.kind is kind]
        rows.append(
            {
                "instrument": estimator(name).title,
                "rank correlation with itself": float(np.mean([s.correlation for s in here])),
                "units with one fate": float(np.mean([s.same_fate for s in here])),
            }
        )
    if rows:
        st.subheader("The instrument's own uncertainty")
        st.dataframe(
            rows,
            hide_index=True,
            column_config={
                "rank correlation with itself": st.column_config.NumberColumn(format="%.3f"),
                "units with one fate": st.column_config.NumberColumn(format="percent"),
            },
        )
        st.caption(
            "Over the calibration seeds: how alike it ranks, and how many units always stay "
            "or always go."
        )


def draw_why(
    model: OnBench, plans: Sequence[UnitPlan], maps: Sequence[ImportanceMap], kind: SiteKind
) -> None:
    """Say of one unit where it stands with every instrument."""
    st.subheader("Why would this unit go?")
    left, right = st.columns(2)
    layer = left.number_input("Layer", 0, model.anatomy.layers - 1, 0, key="why-layer")
    key = SiteKey(layer, kind)
    if key not in maps[0].sites:
        st.info("This site cannot be pruned.")
        return
    units = model.anatomy.by_key[key].units
    what = "Channel" if kind is SiteKind.MLP else "Key/value group"
    unit = right.number_input(f"{what}, of {units:,}", 0, units - 1, 0, key=f"why-unit-{kind}")
    st.dataframe(
        standings_table(standings(maps, key, unit, plans[0].sites[key].width.units)),
        hide_index=True,
        column_config={"score at the cut": st.column_config.NumberColumn(format="%.2f ×")},
    )
    st.caption(
        "Rank 0 is the most important. Margin: ranks to fall before it would go, or, below 0, to "
        "climb before it would stay."
    )


bench = require_model()
st.subheader("The same job, many instruments")
wanted = draw_choice(bench)
draw_measurements(wanted)
resolved = [
    (plan, scores)
    for recipe in wanted
    if isinstance(plan := ENGINE.plan(recipe), UnitPlan)
    and (scores := ENGINE.map(bench.fingerprint, recipe.scoring)) is not None
]
if len(resolved) > 1:
    lane = SiteKind(
        st.segmented_control(
            "Lane",
            [kind for kind in SiteKind if bench.anatomy.of_kind(kind)],
            default=resolved[0][0].anatomy.sites[-1].key.kind,
            format_func=lane_name,
            required=True,
        )
    )
    seed = state.calibration().seed
    first = [(plan, m) for plan, m in resolved if m.scoring.calibration.seed == seed]
    first_plans, first_maps = [plan for plan, _ in first], [scores for _, scores in first]
    if len(first) > 1:
        draw_agreement(first_plans, first_maps, lane)
    draw_seeds([scores for _, scores in resolved], [plan for plan, _ in resolved], lane)
    if first:
        draw_why(bench, first_plans, first_maps, lane)
