"""Importance: fine-grained beside coarse-grained beside fused, layer by layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import figures, palette, state
from app.components.bench import find_map, require_model, score_button
from app.components.closeup import draw_closeup
from app.components.settings import calibration_controls
from app.results import OnBench
from app.words import lane_name
from pruning_core.importance import ImportanceMap
from pruning_core.importance.compare import rank_correlation
from pruning_core.recipe import SiteKey, SiteKind

BINS = 384
PANELS = (
    ("fine", "Fine-grained"),
    ("coarse", "Coarse-grained"),
    ("hybrid", "Fused"),
)
BY_FINE, BY_ITSELF, IN_MODEL = "by fine", "each by itself", "as in the model"


def draw_maps(model: OnBench, maps: dict[str, ImportanceMap]) -> None:
    """Draw the heatmaps side by side on one scale; a click chooses the layer below."""
    lane, order = st.columns(2)
    kind = lane.segmented_control(
        "Lane", list(SiteKind), default=SiteKind.MLP, format_func=lane_name, required=True
    )
    sort = order.segmented_control(
        "Units sorted",
        [BY_FINE, BY_ITSELF, IN_MODEL],
        default=BY_FINE,
        required=True,
        help="By fine: every map shows a layer's units in the order of the fine-grained score, so "
        "that what coarse and fused see otherwise stands out.",
    )
    sites = model.anatomy.of_kind(SiteKind(kind))
    if not sites:
        st.info("This model has no prunable site of that kind.")
        return
    unit = "channels" if kind == SiteKind.MLP else "query heads"
    panels = []
    for name, title in PANELS:
        if name in maps:
            vectors = [_sorted(maps, name, site.key, sort) for site in sites]
            panels.append((title, figures.columns(vectors, BINS)))
    most = max(len(maps["fine"].sites[site.key].ranked) for site in sites)
    figure = figures.importance(
        panels,
        [site.key.layer for site in sites],
        units=most,
        axis=unit if sort == IN_MODEL else f"{unit}, important on top",
    )
    st.plotly_chart(
        figure,
        key="maps",
        config={"displayModeBar": False},
        on_select=lambda: state.take_layer("maps"),
        selection_mode="points",
        alt="Importance of every unit in every layer, fine-grained beside coarse-grained and fused",
    )
    words = [
        "Multiples of the site's mean, one colour scale for all. Click a layer to look inside.",
        "Fine: every weight by itself, summed over the unit; coarse: the unit as a whole; both "
        "follow HyWIA (arXiv 2403.10799) as a reconstruction.",
    ]
    if "hybrid" not in maps:
        words.append("Fused comes in once the Fusion page has learned it.")
    if most > BINS:
        words.append(f"{most:,} neighbouring {unit} are averaged to {BINS} rows.")
    st.caption(" ".join(words))


def _sorted(
    maps: dict[str, ImportanceMap], name: str, key: SiteKey, order: str
) -> npt.NDArray[np.float32]:
    """Return a site's scores under one estimator in the order that was chosen."""
    values = maps[name].sites[key].ranked.numpy()
    if order == IN_MODEL:
        return values
    by = maps["fine"].sites[key].ranked.numpy() if order == BY_FINE else values
    return values[np.argsort(-by, kind="stable")]


def draw_agreement(model: OnBench, maps: dict[str, ImportanceMap]) -> None:
    """Draw where the estimators rank units alike."""
    st.subheader("Where they agree")
    sites = model.anatomy.of_kind(SiteKind.MLP) or model.anatomy.sites
    layers = [site.key.layer for site in sites]
    pairs = (
        ("fine", "coarse", palette.NEUTRAL),
        ("hybrid", "fine", palette.FINE),
        ("hybrid", "coarse", palette.COARSE),
    )
    lines = [
        (
            f"{one} with {other}",
            [rank_correlation(maps[one], maps[other], site.key) for site in sites],
            colour,
        )
        for one, other, colour in pairs
        if one in maps and other in maps
    ]
    st.plotly_chart(figures.agreement(layers, lines), key="agreement")
    st.caption(
        "Spearman's rank correlation of the MLP channels of each layer; 1 is the same order."
    )


def draw_matrices(model: OnBench, maps: dict[str, ImportanceMap]) -> None:
    """Draw one matrix of one layer in tiles."""
    st.subheader("Inside a layer")
    left, right = st.columns([1, 2])
    layer = left.number_input(
        "Layer",
        0,
        model.anatomy.layers - 1,
        key=state.control("layer", min(state.choice("layer"), model.anatomy.layers - 1)),
        on_change=state.keep("layer", "layer"),
    )
    names = {
        coupling.tensor.removesuffix(".weight").split(".")[-1]: coupling.tensor
        for site in model.anatomy.sites
        if site.key.layer == layer
        for coupling in site.matrices
    }
    if not names:
        st.info("No site of this layer can be pruned, so none has been scored.")
        return
    short = right.segmented_control("Matrix", list(names), default=list(names)[-1], required=True)
    for place, (name, title) in zip(st.columns(2), PANELS[:2], strict=True):
        tiles = maps[name].tiles[names[short]]
        with place:
            st.markdown(f"**{title}**")
            st.plotly_chart(
                figures.tiles(tiles.mean.numpy(), shape=tiles.shape),
                key=f"tiles-{name}",
                config={"displayModeBar": False},
            )
    rows, columns = maps["fine"].tiles[names[short]].mean.shape
    st.caption(f"{names[short]}, reduced to {rows} × {columns} tiles; multiples of its mean.")
    draw_closeup(model, names[short])


bench = require_model()
st.subheader("What matters, layer by layer")
calibration_controls()
found = {name: scores for name, _title in PANELS if (scores := find_map(bench, name)) is not None}
if {"fine", "coarse"} <= set(found):
    draw_maps(bench, found)
    draw_agreement(bench, found)
    draw_matrices(bench, found)
else:
    score_button(bench, "Score fine and coarse", tuple(map(state.scoring, ("fine", "coarse"))))
    st.caption(
        "One backward pass per window yields both granularities; no gradient is kept. "
        "On two cores the demo takes about half a minute."
    )
