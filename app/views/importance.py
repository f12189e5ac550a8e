"""Importance: fine-grained beside coarse-grained beside fused, layer by layer."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app import figures, palette
from app.components.bench import find_map, require_model, score_button
from app.components.settings import calibration_controls
from app.engine import OnBench
from pruning_core.importance import ImportanceMap
from pruning_core.importance.compare import rank_correlation
from pruning_core.recipe import SiteKind

BINS = 192
PANELS = (
    ("fine", "Fine-grained", "every weight by itself, summed over the unit"),
    ("coarse", "Coarse-grained", "the unit as a whole"),
    ("hybrid", "Fused", "attention chooses between the two, unit by unit"),
)


def draw_maps(model: OnBench, maps: dict[str, ImportanceMap]) -> None:
    """Draw the three heatmaps on one scale."""
    lane, order = st.columns(2)
    kind = lane.segmented_control(
        "Lane", list(SiteKind), default=SiteKind.MLP, format_func=_lane, required=True
    )
    sort = order.segmented_control(
        "Units", ["in model order", "sorted"], default="in model order", required=True
    )
    sites = model.anatomy.of_kind(SiteKind(kind))
    if not sites:
        st.info("This model has no prunable site of that kind.")
        return
    unit = "channel" if kind == SiteKind.MLP else "query head"
    layers = [site.key.layer for site in sites]
    for place, (name, title, words) in zip(st.columns(3), PANELS, strict=True):
        with place:
            st.markdown(f"**{title}**  \n:small[{words}]")
            if name not in maps:
                st.info("Not learned yet: the Fusion page trains it.", icon=":material/merge:")
                continue
            vectors = [_vector(maps[name], site.key, sort == "sorted") for site in sites]
            figure = figures.importance(
                figures.columns(vectors, BINS), layers, unit=unit, bar=name == "coarse"
            )
            st.plotly_chart(figure, key=f"map-{name}", config={"displayModeBar": False})
    rows = f"Neighbouring channels are averaged to {BINS} rows. " if unit == "channel" else ""
    st.caption(
        "Multiples of the site's mean, one colour scale for all three. "
        f"{rows}Fine and coarse follow HyWIA (arXiv 2403.10799) as a reconstruction."
    )


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
    layer = left.number_input("Layer", 0, model.anatomy.layers - 1, 0)
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
    for place, (name, title, _words) in zip(st.columns(2), PANELS[:2], strict=True):
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


def _vector(scores: ImportanceMap, key: object, ordered: bool) -> np.ndarray:
    site = scores.sites[key]  # type: ignore[index]
    values = (site.units if site.heads is None else site.heads).numpy()
    return np.sort(values)[::-1] if ordered else values


def _lane(kind: SiteKind) -> str:
    return "MLP" if kind is SiteKind.MLP else "Attention"


bench = require_model()
st.subheader("What matters, layer by layer")
calibration_controls()
found = {
    name: scores for name, _title, _words in PANELS if (scores := find_map(bench, name)) is not None
}
if {"fine", "coarse"} <= set(found):
    draw_maps(bench, found)
    draw_agreement(bench, found)
    draw_matrices(bench, found)
else:
    score_button(bench, "Score fine and coarse", ("fine", "coarse"), primary=True)
    st.caption(
        "One backward pass per window yields both granularities; no gradient is kept. "
        "On two cores the demo takes about half a minute."
    )
