"""Figures of saved runs: numbers in, figures out, in the manner of `app.figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app import palette
from app.figures import layout

_WIDE = 8
"""From so many times the lowest perplexity on, the scale is logarithmic."""


@dataclass(frozen=True)
class Point:
    """A model on the chart of size against quality.

    Attributes:
        id: what a click on it tells.
        label: what it is called.
        parameters: its size.
        perplexity: its quality; what is not finite is not drawn.
        zeros: whether its weights became zero and take room like any other.
        leaked: whether calibration and measurement text overlap.
    """

    id: str
    label: str
    parameters: int
    perplexity: float
    zeros: bool = False
    leaked: bool = False


@dataclass(frozen=True)
class Span:
    """A run's perplexity as a multiple of the dense model's, and the ends of its interval."""

    label: str
    value: float
    low: float
    high: float


def over_dense(spans: Sequence[Span]) -> go.Figure:
    """Draw multiples of the dense perplexity with their intervals, one below the other.

    Ends that are not finite, of a single window say, are left out.
    """
    drawn = [span for span in spans if math.isfinite(span.value)]
    above = [span.high - span.value if math.isfinite(span.high) else 0.0 for span in drawn]
    below = [span.value - span.low if span.low > 0 else 0.0 for span in drawn]
    figure = go.Figure(
        go.Scatter(
            x=[span.value for span in drawn],
            y=list(range(len(drawn))),
            text=[f"{span.label}: x {span.value:.3f}" for span in drawn],
            customdata=[(span.low, span.high) for span in drawn],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": above,
                "arrayminus": below,
                "thickness": 2,
                "width": 5,
            },
            mode="markers",
            marker={"size": 9, "color": palette.FUSED},
            hovertemplate="%{text}<br>%{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
        )
    )
    layout(figure, 90 + 26 * len(drawn), x="perplexity over dense")
    figure.add_vline(x=1, line={"color": palette.FINE, "width": 2, "dash": "dot"})
    if drawn and max(span.value for span in drawn) > _WIDE:
        figure.update_xaxes(type="log")
    return figure.update_yaxes(
        tickvals=list(range(len(drawn))),
        ticktext=[span.label for span in drawn],
        range=[len(drawn) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )


def quality_by_size(points: Sequence[Point], best: Sequence[Point], dense: Point) -> go.Figure:
    """Draw runs as points, those that none beats joined by steps, and the dense model.

    The runs are the last trace, and the only one that can be clicked: ``customdata`` is the id.

    Args:
        points: all of them, measured alike.
        best: the frontier, smallest first.
        dense: the dense model, measured as they were.
    """
    drawn = [point for point in points if math.isfinite(point.perplexity)]
    line = [*best]
    if best and dense.parameters > best[-1].parameters and dense.perplexity < best[-1].perplexity:
        line.append(dense)
    figure = go.Figure(
        [
            go.Scatter(
                x=[point.parameters for point in line],
                y=[point.perplexity for point in line],
                mode="lines",
                line={"color": palette.FUSED, "width": 2, "shape": "hv"},
                name="frontier",
                hoverinfo="skip",
            ),
            go.Scatter(
                x=[dense.parameters],
                y=[dense.perplexity],
                mode="markers",
                marker={"symbol": "diamond", "size": 13, "color": palette.FINE},
                unselected={"marker": {"opacity": 1}},
                name="dense",
                hovertemplate="dense: %{x:,} parameters, perplexity %{y:.3f}<extra></extra>",
            ),
            go.Scatter(
                x=[point.parameters for point in drawn],
                y=[point.perplexity for point in drawn],
                customdata=[point.id for point in drawn],
                text=[point.label for point in drawn],
                mode="markers",
                marker={
                    "symbol": [_symbol(point) for point in drawn],
                    "size": 11,
                    "color": [palette.FUSED if p in best else palette.NEUTRAL for p in drawn],
                    "line": {"width": 0},
                },
                selected={"marker": {"size": 17, "color": palette.CUT, "opacity": 1}},
                unselected={"marker": {"opacity": 0.75}},
                name="runs",
                hovertemplate="%{text}<br>%{x:,} parameters, perplexity %{y:.3f}<extra></extra>",
            ),
        ]
    )
    layout(figure, 400, x="parameters", y="perplexity")
    figure.update_xaxes(tickformat=".3~s")
    heights = [dense.perplexity, *(point.perplexity for point in drawn)]
    if min(heights) > 0 and max(heights) > _WIDE * min(heights):
        figure.update_yaxes(type="log")
    return figure.update_layout(dragmode=False, clickmode="event+select")


def predicted_frontier(predicted: Sequence[Point], measured: Sequence[Point]) -> go.Figure:
    """Draw the best predicted quality at every size, and runs as they were measured.

    Args:
        predicted: smallest or largest first.
        measured: under the protocol that is predicted for.
    """
    drawn = [point for point in measured if math.isfinite(point.perplexity)]
    figure = go.Figure(
        [
            go.Scatter(
                x=[point.parameters for point in predicted],
                y=[point.perplexity for point in predicted],
                mode="lines+markers",
                line={"color": palette.FINE, "width": 2, "dash": "dot"},
                name="best, predicted",
                hovertemplate="%{x:,} parameters, predicted %{y:.3f}<extra></extra>",
            ),
            go.Scatter(
                x=[point.parameters for point in drawn],
                y=[point.perplexity for point in drawn],
                text=[point.label for point in drawn],
                mode="markers",
                marker={"size": 10, "color": palette.FUSED},
                name="measured",
                hovertemplate="%{text}<br>%{x:,} parameters, measured %{y:.3f}<extra></extra>",
            ),
        ]
    )
    layout(figure, 320, x="parameters", y="perplexity")
    figure.update_xaxes(tickformat=".3~s")
    return figure.update_yaxes(type="log")


def _symbol(point: Point) -> str:
    if point.leaked:
        return "x"
    return "square" if point.zeros else "circle"


def sparsities(
    names: tuple[str, str],
    attention: tuple[Sequence[float], Sequence[float]],
    mlp: tuple[Sequence[float], Sequence[float]],
) -> go.Figure:
    """Draw the sparsity of every site in two recipes as bars side by side, attention above MLP.

    Args:
        names: of the recipes.
        attention, mlp: sparsity by layer, of the one and of the other.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    looks = (
        {"color": palette.FUSED, "line": {"width": 0}},
        {"color": palette.FINE, "line": {"width": 0}, "pattern": {"shape": "/"}},
    )
    for row, (lane, pair) in enumerate((("attention", attention), ("MLP", mlp)), start=1):
        for name, shares, look in zip(names, pair, looks, strict=True):
            figure.add_trace(
                go.Bar(
                    x=list(range(len(shares))),
                    y=list(shares),
                    marker=look,
                    name=name,
                    legendgroup=str(looks.index(look)),
                    showlegend=row == 1,
                    hovertemplate=f"layer %{{x}}, {lane}: %{{y:.1%}}",
                ),
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=lane, range=[0, 1], tickformat=".0%", row=row, col=1)
    layout(figure, 430)
    figure.update_xaxes(showgrid=False)
    figure.update_xaxes(title_text="layer", row=2, col=1)
    return figure.update_layout(bargap=0.2, barmode="group")
