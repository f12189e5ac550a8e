"""Fusion: how the granularities are weighed unit by unit, and where that overrules either."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app import figures, state
from app.components.bench import find_map, require_model, score_button
from app.components.settings import parameter_controls
from app.results import OnBench
from app.tables import overruled_table
from app.words import lane_name, percent
from pruning_core.importance import Estimator, Fusion, Grain, ImportanceMap, Needs
from pruning_core.importance.compare import overruled, ranks
from pruning_core.importance.registry import estimator, estimators
from pruning_core.recipe import SiteKind

BINS = 192


def draw_training(fusion: Fusion) -> None:
    """Draw the training curve, if there was training, and the shares it ended with."""
    left, right = st.columns(2) if fusion.curve else (None, st.container())
    if left is not None:
        left.markdown("**Training**  \n:small[KL of the masked model to the dense one]")
        left.plotly_chart(figures.curve(fusion.curve), key="curve")
    with right:
        st.markdown("**Attention weights**  \n:small[MLP channels, each layer's sorted]")
        keys = [key for key in fusion.sites if key.kind is SiteKind.MLP] or list(fusion.sites)
        vectors = [np.sort(fusion.sites[key].attention.units.numpy())[::-1] for key in keys]
        figure = figures.attention_weights(
            figures.columns(vectors, BINS), [key.layer for key in keys], unit="channels"
        )
        st.plotly_chart(figure, key="attention", config={"displayModeBar": False})


def draw_site(model: OnBench, scores: ImportanceMap, fusion: Fusion) -> None:
    """Draw one site: ranks against ranks, and the units on which the fusion overrules a side."""
    st.subheader("Unit by unit")
    place, lane, cut = st.columns([1, 1, 2])
    layer = place.number_input(
        "Layer", 0, model.anatomy.layers - 1, min(4, model.anatomy.layers - 1)
    )
    kinds = [kind for kind in SiteKind if any(k.kind is kind for k in fusion.sites)]
    kind = lane.segmented_control(
        "Lane",
        kinds,
        default=kinds[-1],
        format_func=lane_name,
        required=True,
    )
    sparsity = cut.slider("Sparsity of this look", 0, 95, 35, 5, format="%d%%") / 100
    key = next((k for k in fusion.sites if k.layer == layer and k.kind == kind), None)
    if key is None:
        st.info("This site cannot be pruned, so the fusion has nothing to say about it.")
        return
    site = fusion.sites[key]
    kept = round((1 - sparsity) * len(site.fine.units))
    against = overruled(site, scores.sites[key].units, kept)
    left, right = st.columns([3, 2])
    with left:
        figure = figures.rank_scatter(
            ranks(site.fine.units).tolist(),
            ranks(site.coarse.units).tolist(),
            site.attention.units.tolist(),
            kept,
        )
        st.plotly_chart(figure, key="ranks")
    with right:
        st.metric("Share of the fine-grained score", percent(float(site.attention.units.mean())))
        st.markdown(
            f"**Kept though fine alone would remove it** ({len(against.kept_against_fine)})"
        )
        _table(site, scores, key, against.kept_against_fine)
        st.markdown(
            f"**Kept though coarse alone would remove it** ({len(against.kept_against_coarse)})"
        )
        _table(site, scores, key, against.kept_against_coarse)


def _table(site: object, scores: ImportanceMap, key: object, units: tuple[int, ...]) -> None:
    if not units:
        st.caption("None at this sparsity.")
        return
    table = overruled_table(site, scores.sites[key], units)  # type: ignore[index, arg-type]
    st.dataframe(
        table,
        hide_index=True,
        height=150,
        column_config={"fine has": st.column_config.NumberColumn(format="percent")},
    )


def draw_waiting(model: OnBench, method: Estimator) -> None:
    """Draw the button that makes the fusion, and what that takes."""
    learns = method.needs is Needs.TRAINING
    label = "Learn the fusion" if learns else "Blend"
    score_button(model, label, tuple(map(state.scoring, ("fine", "coarse", method.name))))
    st.caption(
        "Trains on the calibration text of the Importance page, with the model's weights frozen. "
        "On two cores the demo takes about ten minutes; you can stop it at any time, and keep "
        "what it has learned by then."
        if learns
        else "Needs no training: one backward pass over the calibration windows."
    )


def draw_fusion(model: OnBench, method: Estimator, scores: ImportanceMap, fusion: Fusion) -> None:
    """Draw what a fusion came to."""
    if fusion.curve:
        asked, done = method.settings(dict(scores.scoring.params))["steps"], len(fusion.curve)
        early = f" Stopped early, of {asked}; with Stop at 0 all are learned."
        st.caption(
            f"Learned in {scores.seconds:.0f} s, {done} steps.{early if done != asked else ''}"
        )
    draw_training(fusion)
    draw_site(model, scores, fusion)


bench = require_model()
st.subheader("The fusion of both granularities")
chosen = st.segmented_control(
    "Fusion",
    [method.name for method in estimators() if method.grain is Grain.HYBRID],
    key=state.control("fusion", state.choice("fusion")),
    format_func=lambda name: estimator(name).title,
    on_change=state.keep("fusion", "fusion"),
    required=True,
    label_visibility="collapsed",
)
method = estimator(chosen or state.choice("fusion"))
st.caption(f"{method.summary} {method.formula}. {method.source}.")
parameter_controls(method)
fused = find_map(bench, method.name)
if fused is None or fused.fusion is None:
    draw_waiting(bench, method)
else:
    draw_fusion(bench, method, fused, fused.fusion)
