"""Figures of tasks: numbers in, figures out, in the manner of `app.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import plotly.graph_objects as go

from app import palette
from app.figures import layout

HEIGHT = 400
"""In pixels."""

_WIDEST = 0.36
"""Of a bar, where two tasks are 1 apart."""

_LETTERS = 16
"""In a line below a pair of bars."""

_REACH = 0.45
"""How far the line of guessing goes to either side of a task."""

_FEWEST = 3
"""Tasks that there is room for at least: bars of one alone would be as wide as the chart."""

_FAINT = 0.5
"""How much of a bar is seen: its whiskers are of the same colour, in full."""


@dataclass(frozen=True)
class Right:
    """A share of right answers, and the ends of its interval; None where something is unknown."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pair:
    """A task that the dense and the pruned model were asked.

    Attributes:
        title: what stands below the bars.
        dense, pruned: shares of right answers, 0 to 1.
        chance: the share that guessing gets right.
    """

    title: str
    dense: Right
    pruned: Right
    chance: float


def accuracies(pairs: Sequence[Pair]) -> go.Figure:
    """Draw each task as two bars with their intervals, and a line across them where guessing is."""
    places = list(range(len(pairs)))
    figure = go.Figure(
        [
            _bars("dense", places, -1, [pair.dense for pair in pairs]),
            _bars("pruned", places, 1, [pair.pruned for pair in pairs]),
            go.Scatter(
                x=[x for place in places for x in (place - _REACH, place + _REACH, None)],
                y=[y for pair in pairs for y in (pair.chance, pair.chance, None)],
                mode="lines",
                line={"color": palette.CUT, "width": 2, "dash": "dot"},
                name="guessing",
                hovertemplate="guessing: %{y:.1%}<extra></extra>",
                cliponaxis=False,
            ),
        ]
    )
    layout(figure, HEIGHT, y="right answers")
    empty = max(_FEWEST - len(pairs), 0) / 2
    figure.update_xaxes(
        tickvals=places,
        ticktext=["<br>".join(wrap(pair.title, _LETTERS)) for pair in pairs],
        range=[-0.5 - empty, len(pairs) - 0.5 + empty],
        showgrid=False,
    )
    figure.update_yaxes(range=[0, 1], tickformat=".0%")
    return figure.update_layout(barmode="overlay")


def _bars(name: str, places: Sequence[int], side: int, shares: Sequence[Right]) -> go.Bar:
    """Draw one model's bars, to the left (-1) or right (1) of their places."""
    colour, shape = (palette.FINE, "/") if side < 0 else (palette.FUSED, "")
    return go.Bar(
        x=[place + side * _WIDEST / 2 for place in places],
        y=[share.value for share in shares],
        width=_WIDEST,
        marker={
            "color": colour,
            "opacity": _FAINT,
            "line": {"width": 0},
            "pattern": {"shape": shape, "fillmode": "overlay"},
        },
        name=name,
        error_y={
            "type": "data",
            "array": [_reach(share.high, share.value) for share in shares],
            "arrayminus": [_reach(share.value, share.low) for share in shares],
            "color": colour,
            "thickness": 2.5,
            "width": 7,
        },
        customdata=[_words(share) for share in shares],
        hovertemplate=f"{name}: %{{y:.1%}}%{{customdata}}<extra></extra>",
    )


def _reach(upper: float | None, lower: float | None) -> float | None:
    return None if upper is None or lower is None else upper - lower


def _words(share: Right) -> str:
    if share.low is None or share.high is None:
        return ", without an interval"
    return f", between {share.low:.1%} and {share.high:.1%}"
