"""Figures of how far estimators agree: numbers in, figures out, in the manner of `app.figures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app import palette
from app.figures import Matrix, layout

_ROW = 34
"""Pixels of a row that has numbers in its cells."""

_AROUND = 110
"""Pixels above and below the rows: title and names."""


def agreement_matrix(names: Sequence[str], values: Matrix, title: str) -> go.Figure:
    """Draw how far every two estimators agree, with the numbers in the cells.

    Args:
        names: of the estimators, down and across.
        values: rank correlations or overlaps, [estimators, estimators], at most 1; NaN leaves a
            gap.
        title: what the numbers are.
    """
    heatmap = _heatmap(values, list(names), list(names))
    heatmap.update(
        text=[[_number(value) for value in row] for row in values],
        texttemplate="%{text}",
        hovertemplate="%{y} with %{x}: %{z:.3f}<extra></extra>",
        showscale=False,
    )
    figure = layout(go.Figure(heatmap), _ROW * len(names) + _AROUND)
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return _titled(figure, title)


def per_layer(
    pairs: Sequence[tuple[str, str]], layers: Sequence[int], values: Matrix, title: str
) -> go.Figure:
    """Draw how far pairs of estimators agree in every layer.

    Args:
        pairs: names of two estimators each, from top to bottom.
        layers: from left to right.
        values: rank correlations or overlaps, [pairs, layers], at most 1; NaN leaves a gap.
        title: what the numbers are.
    """
    heatmap = _heatmap(values, list(layers), [f"{one} with {other}" for one, other in pairs])
    heatmap.update(hovertemplate="layer %{x}: %{y}: %{z:.3f}<extra></extra>")
    figure = layout(go.Figure(heatmap), _ROW * len(pairs) + _AROUND, x="layer")
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    return _titled(figure, title)


def _heatmap(values: Matrix, across: Sequence[str | int], down: Sequence[str]) -> go.Heatmap:
    """Return a heatmap that ends at full agreement and begins at none, or at discord if any."""
    known = values[np.isfinite(values)]
    return go.Heatmap(
        z=values,
        x=across,
        y=down,
        zmin=float(known.min(initial=0)),
        zmax=1,
        xgap=1,
        ygap=1,
        colorscale=palette.IMPORTANCE,
        colorbar={"thickness": 12, "outlinewidth": 0},
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else ""


def _titled(figure: go.Figure, title: str) -> go.Figure:
    return figure.update_layout(
        title={"text": title, "font": {"size": 14}, "x": 0, "y": 0.98, "yanchor": "top"},
        margin_t=36,
    )
