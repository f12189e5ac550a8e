"""Plotly figures: numbers in, figures out. Nothing here knows the app's state.

Every figure is transparent and uses the palette, so that it reads on both themes; big matrices are
reduced before they come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app import palette
from app.words import lane_name
from pruning_core.recipe import SiteKey, SiteKind

if TYPE_CHECKING:
    from pruning_core.planning.curves import Curve

Matrix = npt.NDArray[np.float32]

_WIDEST = 0.85
"""No importance scale goes further than so many powers of ten from a site's mean."""

_TICKS = {
    -0.7: "⅕ ×",
    -0.3: "½ ×",
    -0.15: "0.7 ×",
    0: "mean",
    0.15: "1.4 ×",
    0.3: "2 ×",
    0.7: "5 ×",
}


def binned(values: npt.NDArray[np.float32], bins: int) -> Matrix:
    """Reduce a vector to at most `bins` means of neighbours."""
    if len(values) <= bins:
        return values.astype(np.float32)
    edges = np.linspace(0, len(values), bins + 1).astype(int)
    sums = np.add.reduceat(values, edges[:-1])
    return (sums / np.diff(edges)).astype(np.float32)


def columns(vectors: Sequence[npt.NDArray[np.float32]], bins: int) -> Matrix:
    """Stack vectors side by side, [rows, columns], shorter ones ending in gaps."""
    reduced = [binned(vector, bins) for vector in vectors]
    height = max(len(vector) for vector in reduced)
    stacked = np.full((height, len(reduced)), np.nan, np.float32)
    for index, vector in enumerate(reduced):
        stacked[: len(vector), index] = vector
    return stacked


def levels(vectors: Sequence[npt.NDArray[np.float32]], bins: int) -> list[npt.NDArray[np.uint8]]:
    """Return multiples of the sites' means on the importance scale: bytes, at most `bins` each."""
    logs = [_logs(binned(vector, bins)) for vector in vectors]
    limit = _limit(logs)
    return [np.rint((log.clip(-limit, limit) / limit + 1) * 127.5).astype(np.uint8) for log in logs]


def importance(
    panels: Sequence[tuple[str, Matrix]],
    layers: Sequence[int],
    *,
    units: int,
    axis: str,
    height: int = 380,
) -> go.Figure:
    """Draw importance maps side by side on one scale, units down and layers across.

    Over every map lie invisible points, since a heatmap itself cannot be clicked: a click on one
    tells its layer.

    Args:
        panels: title and multiples of each site's mean, [rows, layers].
        units: how many units the rows stand for.
        axis: what the rows are, such as ``"channels"``.
    """
    logs = [_logs(values) for _title, values in panels]
    limit = _limit(logs)
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[title for title, _values in panels],
    )
    rows = len(logs[0])
    down = np.arange(rows) * units / rows
    clickable = down[:: max(rows // 24, 1)]
    for column, values in enumerate(logs, start=1):
        heatmap = go.Heatmap(
            z=values.clip(-limit, limit),
            x=list(layers),
            y=down,
            coloraxis="coloraxis",
            hoverinfo="skip",
        )
        points = go.Scattergl(
            x=np.repeat(layers, len(clickable)),
            y=np.tile(clickable, len(layers)),
            mode="markers",
            marker={"size": 9, "symbol": "square", "opacity": 0},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            hovertemplate=f"layer %{{x}}, {axis} from %{{y:.0f}}<extra></extra>",
            showlegend=False,
        )
        figure.add_traces([heatmap, points], rows=1, cols=column)
    figure.update_layout(
        coloraxis={
            "cmin": -limit,
            "cmax": limit,
            "colorscale": palette.IMPORTANCE,
            "colorbar": _bar(limit),
        },
        dragmode=False,
    )
    layout(figure, height)
    figure.update_xaxes(
        title_text="layer", range=[min(layers) - 0.5, max(layers) + 0.5], showgrid=False
    )
    figure.update_yaxes(range=[units, 0], showgrid=False)
    figure.update_yaxes(title_text=axis, row=1, col=1)
    return figure.update_layout(margin_t=28)


def tiles(values: Matrix, *, shape: tuple[int, int], height: int = 300) -> go.Figure:
    """Draw one matrix in tiles, as multiples of the matrix's mean."""
    logs = _logs(values / (float(values.mean()) or 1.0))
    limit = _limit([logs])
    figure = go.Figure(
        go.Heatmap(
            z=logs.clip(-limit, limit),
            zmin=-limit,
            zmax=limit,
            colorscale=palette.IMPORTANCE,
            colorbar=_bar(limit),
            hovertemplate="tile %{y}, %{x}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    return layout(figure, height, x=f"inputs ({shape[1]})", y=f"outputs ({shape[0]})")


def closeup(values: Matrix, mean: float, *, top: int, left: int, height: int = 460) -> go.Figure:
    """Draw single weights of a matrix, as multiples of the matrix's mean.

    Args:
        values: the cut-out, [rows, columns].
        mean: of the whole matrix.
        top, left: where the cut-out begins.
    """
    logs = _logs(values / (mean or 1.0))
    limit = _limit([logs])
    figure = go.Figure(
        go.Heatmap(
            z=logs.clip(-limit, limit),
            x0=left,
            y0=top,
            zmin=-limit,
            zmax=limit,
            colorscale=palette.IMPORTANCE,
            colorbar=_bar(limit),
            hovertemplate="output %{y}, input %{x}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    return layout(figure, height, x="input", y="output")


def agreement(
    layers: Sequence[int], lines: Sequence[tuple[str, Sequence[float], str]]
) -> go.Figure:
    """Draw rank correlations by layer: (name, values, colour) a line."""
    figure = go.Figure(
        [
            go.Scatter(
                x=list(layers),
                y=list(values),
                name=name,
                mode="lines+markers",
                line={"color": colour, "width": 2},
            )
            for name, values, colour in lines
        ]
    )
    figure.update_yaxes(range=[min(0, *(v for _, vs, _ in lines for v in vs)), 1.02])
    return layout(figure, 260, x="layer", y="rank correlation")


def curve(losses: Sequence[float]) -> go.Figure:
    """Draw a fusion's training curve with its moving mean; nothing for one that did not learn."""
    steps = np.arange(1, len(losses) + 1)
    span = max(len(losses) // 12, 1)
    smooth = np.convolve(losses, np.ones(span) / span, mode="valid") if losses else ()
    figure = go.Figure(
        [
            go.Scatter(
                x=steps,
                y=list(losses),
                mode="lines",
                name="step",
                line={"color": palette.NEUTRAL, "width": 1},
            ),
            go.Scatter(
                x=steps[span - 1 :],
                y=smooth,
                mode="lines",
                name=f"mean of {span}",
                line={"color": palette.FUSED, "width": 3},
            ),
        ]
    )
    return layout(figure, 260, x="step", y="KL to dense, nats per token")


def attention_weights(values: Matrix, layers: Sequence[int], *, unit: str) -> go.Figure:
    """Draw the share of the fine-grained score by unit and layer."""
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(layers),
            zmin=0,
            zmax=1,
            colorscale=palette.FUSION,
            colorbar={
                "tickvals": [0, 0.5, 1],
                "ticktext": ["coarse", "both", "fine"],
                "thickness": 12,
                "outlinewidth": 0,
            },
            hovertemplate="layer %{x}: fine has %{z:.0%}<extra></extra>",
        )
    )
    figure.update_yaxes(showticklabels=False, autorange="reversed")
    return layout(figure, 300, x="layer", y=unit)


def rank_scatter(
    fine: Sequence[int], coarse: Sequence[int], attention: Sequence[float], kept: int
) -> go.Figure:
    """Draw units by their rank under either granularity, coloured by the attention."""
    figure = go.Figure(
        go.Scattergl(
            x=list(fine),
            y=list(coarse),
            mode="markers",
            marker={
                "color": list(attention),
                "cmin": 0,
                "cmax": 1,
                "size": 5 if len(fine) > 50 else 12,
                "colorscale": palette.FUSION,
                "colorbar": {
                    "tickvals": [0, 0.5, 1],
                    "ticktext": ["coarse", "both", "fine"],
                    "thickness": 12,
                    "outlinewidth": 0,
                },
            },
            text=[f"unit {unit}" for unit in range(len(fine))],
            hovertemplate="%{text}<br>fine rank %{x}<br>coarse rank %{y}<extra></extra>",
        )
    )
    for edge in ({"x": kept - 0.5}, {"y": kept - 0.5}):
        line = {"color": palette.CUT, "width": 2, "dash": "dot"}
        (figure.add_vline if "x" in edge else figure.add_hline)(**edge, line=line)
    return layout(figure, 380, x="rank by fine (0 = most important)", y="rank by coarse")


def _logs(values: Matrix) -> Matrix:
    """Return powers of ten around the mean; what is worth nothing is as far down as any scale."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values).clip(-_WIDEST, _WIDEST).astype(np.float32)


def _limit(maps: Sequence[Matrix]) -> float:
    """Return where a scale for some maps ends: nearly all values lie within, few beyond."""
    found = np.concatenate([np.abs(logs[np.isfinite(logs)]) for logs in maps])
    return float(np.quantile(found, 0.98).clip(0.2, _WIDEST)) if len(found) else _WIDEST


def _bar(limit: float) -> dict[str, object]:
    ticks = {at: text for at, text in _TICKS.items() if abs(at) <= limit}
    return {
        "tickvals": list(ticks),
        "ticktext": list(ticks.values()),
        "thickness": 12,
        "outlinewidth": 0,
    }


def sensitivity(curves: Mapping[SiteKey, Curve], layers: int) -> go.Figure:
    """Draw how the loss answers to pruning one site alone: layers across, sparsity up.

    Colours are read off the curves, up to the highest point that is measured; dots are the points.

    Args:
        curves: by site.
        layers: how many there are.
    """
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[lane_name(kind) for kind in SiteKind],
    )
    rows = np.arange(5, 101, 5) / 100
    for column, kind in enumerate(SiteKind, start=1):
        increases = np.full((len(rows), layers), np.nan)
        dots = []
        for key, curve in curves.items():
            if key.kind is kind and curve.points:
                known = rows <= curve.points[-1][0] + 1e-9
                increases[known, key.layer] = curve.at(rows[known])
                dots += [(key.layer, 100 * sparsity) for sparsity, _ in curve.points]
        with np.errstate(invalid="ignore"):
            logs = np.log10(np.clip(increases, 1e-3, None))
        heatmap = go.Heatmap(
            z=logs,
            x=list(range(layers)),
            y=100 * rows,
            customdata=increases,
            coloraxis="coloraxis",
            hovertemplate="layer %{x}, %{y} % removed: %{customdata:+.4f} nats<extra></extra>",
        )
        points = go.Scatter(
            x=[layer for layer, _ in dots],
            y=[height for _, height in dots],
            mode="markers",
            marker={"size": 4, "color": "rgba(255, 255, 255, 0.75)"},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_traces([heatmap, points], rows=1, cols=column)
    layout(figure, 320, x="layer")
    figure.update_xaxes(range=[-0.5, layers - 0.5])
    figure.update_yaxes(range=[2.5, 102.5], ticksuffix=" %", title_text="removed", row=1, col=1)
    return figure.update_layout(
        margin={"t": 30},
        coloraxis={
            "colorscale": palette.IMPORTANCE,
            "cmin": -3,
            "cmax": 1,
            "colorbar": {
                "tickvals": [-3, -2, -1, 0, 1],
                "ticktext": ["≤ 0.001", "0.01", "0.1", "1", "10"],
                "thickness": 12,
                "outlinewidth": 0,
                "title": {"text": "nats"},
            },
        },
    )


def layout(figure: go.Figure, height: int, x: str = "", y: str = "") -> go.Figure:
    """Give a figure what all share: transparency, narrow margins, the grid; and its axes' titles.

    Args:
        height: in pixels.
        x, y: titles of the axes, none where empty.
    """
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.12, "x": 0},
        bargap=0,
    )
    axis = {"gridcolor": palette.GRID, "zeroline": False}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    if x:
        figure.update_xaxes(title_text=x)
    if y:
        figure.update_yaxes(title_text=y)
    return figure
