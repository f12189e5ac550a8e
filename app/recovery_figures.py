"""Figures of a training: numbers in, figures out, in the manner of `app.figures`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app import palette
from app.figures import layout

HEIGHT = 280
"""In pixels."""

_APART = 12
"""How many times the perplexity of the best must be that of the worst to be drawn in decades."""

_MANY = 30
"""From so many points on a line has no dots."""

Points = Sequence[tuple[int, float]]
"""Steps and numbers, in the order of the steps."""


def training(
    losses: Points, perplexities: Points, *, steps: int, dense: float, pruned: float
) -> go.Figure:
    """Draw the perplexity of the probe, between the dense and the pruned model's, and the loss.

    The axis of steps is that of the whole training, so that what is drawn stays where it is.

    Args:
        losses: nats per learned token.
        perplexities: of the probe.
        steps: of the whole training.
        dense, pruned: perplexities on the probe; what is no finite number is left out.
    """
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
    levels = [("dense", dense, palette.FINE), ("pruned", pruned, palette.CUT)]
    levels = [level for level in levels if math.isfinite(level[1])]
    known = [found for _, found in perplexities] + [level for _, level, _ in levels]
    decades = bool(known) and max(known) > _APART * min(known)
    for name, level, colour in levels:
        figure.add_trace(_level(name, level, steps, colour), 1, 1)
        figure.add_annotation(
            text=f"{name} {level:.4g}",
            x=steps,
            y=math.log10(level) if decades else level,
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
            font={"color": colour, "size": 13},
        )
    figure.add_trace(_line(perplexities, "perplexity of the probe", palette.FUSED, 3), 1, 1)
    figure.add_trace(_line(losses, "loss of a step", palette.NEUTRAL, 2), 1, 2)
    layout(figure, HEIGHT, x="step")
    figure.update_xaxes(range=[0, steps])
    figure.update_yaxes(title_text="perplexity", row=1, col=1)
    figure.update_yaxes(title_text="loss, nats per token", row=1, col=2)
    if decades:
        figure.update_yaxes(_decades(min(known), max(known)), row=1, col=1)
    return figure.update_layout(showlegend=False, margin_t=20)


def _line(points: Points, name: str, colour: str, width: int) -> go.Scatter:
    return go.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=name,
        mode="lines+markers" if len(points) < _MANY else "lines",
        line={"color": colour, "width": width},
        marker={"size": 7 if width > 2 else 5, "color": colour},
        cliponaxis=False,
        hovertemplate=f"step %{{x}}: %{{y:.4g}}<extra>{name}</extra>",
    )


def _level(name: str, level: float, steps: int, colour: str) -> go.Scatter:
    """Draw a number that training starts from or would come to."""
    return go.Scatter(
        x=[0, steps],
        y=[level, level],
        name=name,
        mode="lines",
        line={"color": colour, "width": 2, "dash": "dot"},
        hoverinfo="skip",
    )


def _decades(lowest: float, highest: float) -> dict[str, object]:
    """Return an axis of decades, with numbers that are read at once: 20, 50, 100."""
    powers = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    # Where there are many, the whole decades are enough.
    ticks = [step * 10.0**power for power in powers for step in ((1, 2, 5), (1,))[len(powers) > 4]]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
