"""Plotly figures: numbers in, figures out. Nothing here knows the app's state.

Every figure is transparent and uses the palette, so that it reads on both themes; big matrices are
reduced before they come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app import palette

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


def cut_map(
    mlp: Matrix,
    attention: Matrix,
    mlp_layers: Sequence[int],
    attention_layers: Sequence[int],
    mlp_kept: Sequence[float],
    attention_kept: Sequence[float],
) -> go.Figure:
    """Draw both lanes with their units sorted by importance, the cut line, and in grey what goes.

    Args:
        mlp, attention: importance [units, layers], most important first.
        mlp_kept, attention_kept: the fraction kept at each layer.
    """
    limit = _limit([_logs(values) for values in (mlp, attention)])
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.06,
        row_heights=[0.3, 0.7],
    )
    lanes = (
        (1, attention, attention_layers, attention_kept, "heads", False),
        (2, mlp, mlp_layers, mlp_kept, "channels", True),
    )
    for row, values, layers, kept, unit, bar in lanes:
        if not len(layers):
            continue
        heatmap = go.Heatmap(
            z=_logs(values).clip(-limit, limit),
            x=list(layers),
            zmin=-limit,
            zmax=limit,
            colorscale=palette.IMPORTANCE,
            colorbar=_bar(limit),
            showscale=bar,
            hovertemplate=f"layer %{{x}}, {unit}<extra></extra>",
        )
        figure.add_trace(heatmap, row=row, col=1)
        count = values.shape[0]
        edges = [count * share - 0.5 for share in kept]
        figure.add_trace(
            go.Bar(
                x=list(layers),
                y=[count - 0.5 - edge for edge in edges],
                base=edges,
                width=1,
                marker={"color": palette.REMOVED, "line": {"width": 0}},
                hovertemplate="layer %{x}: removed<extra></extra>",
                showlegend=False,
            ),
            row=row,
            col=1,
        )
        steps_x, steps_y = [], []
        for layer, edge in zip(layers, edges, strict=True):
            steps_x += [layer - 0.5, layer + 0.5]
            steps_y += [edge, edge]
        figure.add_trace(
            go.Scatter(
                x=steps_x,
                y=steps_y,
                mode="lines",
                line={"color": palette.CUT, "width": 3, "shape": "hv"},
                hoverinfo="skip",
                showlegend=False,
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(
            range=[count - 0.5, -0.5], showticklabels=False, showgrid=False, row=row, col=1
        )
    figure.update_yaxes(title_text="attention", row=1, col=1)
    figure.update_yaxes(title_text="MLP, important on top", row=2, col=1)
    figure.update_xaxes(title_text="layer", row=2, col=1)
    return layout(figure, 430)


def shares(attention: Mapping[int, float], mlp: Mapping[int, float], layers: int) -> go.Figure:
    """Draw the sparsity of every layer's sites as bars, attention above MLP.

    Args:
        attention, mlp: sparsity by layer.
        layers: how many there are.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    for row, (name, lane, colour) in enumerate(
        (("attention", attention, palette.COARSE), ("MLP", mlp, palette.FUSED)), start=1
    ):
        figure.add_trace(
            go.Bar(
                x=list(lane),
                y=list(lane.values()),
                marker={"color": colour, "line": {"width": 0}},
                hovertemplate=f"layer %{{x}}, {name}: %{{y:.1%}}<extra></extra>",
                showlegend=False,
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(title_text=name, range=[0, 1], tickformat=".0%", row=row, col=1)
    layout(figure, 430)
    figure.update_xaxes(range=[-0.5, layers - 0.5], showgrid=False)
    figure.update_xaxes(title_text="layer", row=2, col=1)
    return figure.update_layout(bargap=0.15)


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
