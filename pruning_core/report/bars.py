"""Charts of bars: right answers by task, and how much leaves each layer. Pure.

Numbers in, SVG markup out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.report import svg
from pruning_core.report.charts import WIDTH
from pruning_core.report.findings import Estimate
from pruning_core.report.numbers import percent
from pruning_core.report.scales import Scale

LANES = ((SiteKind.ATTENTION, "Attention"), (SiteKind.MLP, "MLP"))
"""The two lanes of a layer chart, from above, and what they are called."""

_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_HALVES = (0.0, 0.5, 1.0)


class Bar(NamedTuple):
    """Right answers of one model: a share and its interval."""

    label: str
    share: Estimate
    dense: bool


class Panel(NamedTuple):
    """One task by one metric.

    Attributes:
        title: both.
        chance: share that guessing gets right.
        bars: dense first.
    """

    title: str
    chance: float
    bars: Sequence[Bar]


def right_answers(panels: Sequence[Panel]) -> Markup:
    """Draw shares of right answers a panel for each task by each metric; chance is a line."""
    left, right, numbers_at, row = 190, 540, 552, 20
    across = Scale(0, 1, left, right)
    parts: list[Markup] = []
    y = 6.0
    for panel in panels:
        parts.append(svg.text(0, y + 12, svg.shortened(panel.title, numbers_at), "axis"))
        first = y + 26
        last = first + row * len(panel.bars)
        for tick in _FIFTHS:
            parts.append(svg.line(across(tick), first, across(tick), last, "grid"))
        for at, bar in enumerate(panel.bars):
            parts += _bar(bar, first + row * at, row, across, numbers_at)
        chance = across(panel.chance)
        parts.append(svg.line(chance, first - 4, chance, last, "chance"))
        told = f"chance {percent(panel.chance)}"
        parts.append(svg.text(numbers_at, y + 12, told, "number chance-name"))
        y = last + 16
    for tick in _FIFTHS:
        parts.append(svg.text(across(tick), y, f"{tick:.0%}", "tick", "middle"))
    parts.append(svg.text((left + right) / 2, y + 18, "Right answers", "axis", "middle"))
    return svg.drawing(WIDTH, y + 24, "Right answers by task", parts, "wide")


def layers(sparsity: Mapping[SiteKey, float], count: int) -> Markup:
    """Draw how much leaves each layer, its attention above its MLP, from 0 to 100 % each.

    Args:
        sparsity: of the sites; one that is not named keeps everything.
        count: layers of the model, at least one.
    """
    width, left, lane = 360, 42, 64
    step = (width - left - 4) / count
    parts: list[Markup] = []
    bottom = 0.0
    for at, (kind, title) in enumerate(LANES):
        top = 20 + at * (lane + 30)
        bottom = top + lane
        upwards = Scale(0, 1, bottom, top)
        parts.append(svg.text(left, top - 7, title, "axis"))
        for tick in _HALVES:
            parts.append(svg.line(left, upwards(tick), width - 4, upwards(tick), "grid"))
            parts.append(svg.text(left - 6, upwards(tick) + 4, f"{tick:.0%}", "tick", "end"))
        for layer in range(count):
            share = sparsity.get(SiteKey(layer, kind), 0.0)
            if share:
                y = upwards(share)
                told = f"Layer {layer}, {title}: {percent(share)}"
                x = left + layer * step + step * 0.1
                parts.append(svg.rectangle(x, y, step * 0.8, bottom - y, f"lane-{kind}", told))
    for layer in sorted({0, (count - 1) // 2, count - 1}):
        x = left + (layer + 0.5) * step
        parts.append(svg.text(x, bottom + 16, str(layer), "tick", "middle"))
    parts.append(svg.text((left + width) / 2, bottom + 32, "Layer", "axis", "middle"))
    return svg.drawing(width, bottom + 38, "Share that leaves each layer", parts, "small")


def _bar(bar: Bar, y: float, row: float, across: Scale, numbers_at: float) -> list[Markup]:
    share, middle = bar.share, y + row / 2
    kind = "dense-bar" if bar.dense else "pruned-bar"
    told = percent(share.value)
    width = across(share.value) - across(0)
    parts = [
        svg.text(0, middle + 4, svg.shortened(bar.label, across(0) - 10), "name"),
        svg.rectangle(across(0), y + 3, width, row - 6, kind, f"{bar.label}: {told}"),
    ]
    if share.low is not None and share.high is not None:
        low, high = across(share.low), across(share.high)
        parts.append(svg.line(low, middle, high, middle, "whisker"))
        parts += [svg.line(end, middle - 4, end, middle + 4, "whisker") for end in (low, high)]
        told += f" ({percent(share.low)} to {percent(share.high)})"
    parts.append(svg.text(numbers_at, middle + 4, told, "number"))
    return parts
