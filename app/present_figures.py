"""The one chart for people who decide: how good against how small. Numbers in, figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app import palette
from app.figures import layout

TEXT, TITLE = 17, 20
"""Sizes of type, in pixels, that carry across a room."""


@dataclass(frozen=True)
class Tried:
    """A version of the model that was tried out.

    Attributes:
        smaller: the share of the model that has left, 0 to 1.
        right: how often its next word is right, over how often the original's is.
    """

    smaller: float
    right: float


ORIGINAL = Tried(0.0, 1.0)
CLOSE, FAR = 0.05, 0.45
"""Where words beside a dot would meet those of the original, or the edge."""


def quality_by_smaller(tried: Sequence[Tried], present: Tried | None) -> go.Figure:
    """Draw what was tried, the present version among it, and the original.

    Both axes begin at nothing and do not follow the points, so that a loss looks as large as it is.

    Args:
        present: None while it has not been measured, or is the original.
    """
    others = [version for version in tried if version not in (present, ORIGINAL)]
    marks = [
        _versions(others, "tried before", {"size": 13, "color": palette.NEUTRAL}),
        _versions(
            [ORIGINAL], "Original", {"size": 20, "symbol": "diamond", "color": palette.FINE}
        ).update(mode="markers+text", textposition="top center"),
    ]
    if present is not None:
        own = _versions([present], "This one", {"size": 26, "color": palette.FUSED})
        marks.append(own.update(mode="markers+text", textposition=_beside(present)))
    figure = layout(go.Figure(marks), 370, x="Smaller →", y="Better ↑")
    furthest = max([0.6, *(version.smaller for version in tried)])
    highest = max([1.0, *(version.right for version in tried)])
    figure.update_xaxes(range=[-0.03, furthest + 0.05], tickformat=".0%", dtick=0.2)
    figure.update_yaxes(range=[-0.04, highest + 0.14], tickformat=".0%", dtick=0.25)
    figure.update_xaxes(tickfont_size=TEXT, title_font_size=TITLE)
    figure.update_yaxes(tickfont_size=TEXT, title_font_size=TITLE)
    return figure.update_layout(showlegend=False, dragmode=False, hoverlabel_font_size=TEXT)


def _beside(version: Tried) -> str:
    """Return where words have room: what is smaller is mostly worse, so dots fall to the right."""
    if version.smaller < CLOSE:
        return "bottom right"
    return "top right" if version.smaller < FAR else "middle left"


def _versions(versions: Sequence[Tried], name: str, look: dict[str, object]) -> go.Scatter:
    return go.Scatter(
        x=[version.smaller for version in versions],
        y=[version.right for version in versions],
        mode="markers",
        marker={**look, "line": {"width": 0}},
        name=name,
        text=[name for _ in versions],
        textfont={"size": TEXT},
        cliponaxis=False,
        hovertemplate="%{x:.0%} smaller, right %{y:.0%} as often as the original"
        f"<extra>{name}</extra>",
    )
