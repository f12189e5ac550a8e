"""Charts of how good models are for their size, and how they differ from dense. Pure.

Numbers in, SVG markup out. A chart takes what was measured alike, and nothing else is drawn on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pruning_core.report import svg
from pruning_core.report.findings import Difference
from pruning_core.report.numbers import NBSP, factor, perplexity, rounded, signed, times
from pruning_core.report.scales import Scale, scale_for, spread

WIDTH = 760
_ROW = 17
"""Between two lines of text, in units of a drawing."""


class Point(NamedTuple):
    """A model by its size and its quality.

    Attributes:
        label: what it is called.
        parameters: that are not zero.
        perplexity: finite.
        shape: ``diamond`` for dense, ``circle`` where units left, ``square`` where weights did.
        leaked: whether its calibration text was measured.
    """

    label: str
    parameters: int
    perplexity: float
    shape: str
    leaked: bool = False


def size_against_quality(points: Sequence[Point]) -> Markup:
    """Draw models by parameters, across, and perplexity, upwards; wide ones logarithmically.

    The names stand in a column at the right, each joined to its mark, so that none covers another.
    """
    left, right, top, names_at = 62, 520, 34, 548
    height = max(330, len(points) * _ROW + 90)
    bottom = height - 48
    across = scale_for([point.parameters for point in points], left, right)
    upwards = scale_for([point.perplexity for point in points], bottom, top)
    parts = [svg.text(0, 14, "Perplexity: lower is better", "axis")]
    for value in upwards.ticks():
        y = upwards(value)
        parts += [
            svg.line(left, y, right, y, "grid"),
            svg.text(left - 8, y + 4, _short(value), "tick", "end"),
        ]
    for value in across.ticks(4):
        x = across(value)
        parts += [
            svg.line(x, bottom, x, bottom + 5, "rule"),
            svg.text(x, bottom + 20, rounded(value), "tick", "middle"),
        ]
    parts.append(svg.line(left, bottom, right, bottom, "rule"))
    parts.append(
        svg.text((left + right) / 2, height - 6, "Parameters that are left", "axis", "middle")
    )
    placed = [(across(point.parameters), upwards(point.perplexity)) for point in points]
    lines = spread([y for _, y in placed], _ROW, top, bottom)
    for (x, y), beside in zip(placed, lines, strict=True):
        parts.append(svg.line(x, y, names_at - 6, beside, "leader"))
    for point, (x, y), beside in zip(points, placed, lines, strict=True):
        kind = "dense" if point.shape == "diamond" else "leaked" if point.leaked else "pruned"
        told = f"{point.label}: {perplexity(point.perplexity)}, {point.parameters:,} parameters"
        parts.append(svg.mark(x, y, point.shape, kind, told))
        room = WIDTH - names_at
        leak = " (leaked)" if point.leaked else ""
        name = svg.shortened(point.label, room - len(leak) * svg.CHARACTER) + leak
        parts.append(svg.text(names_at, beside + 4, name, f"name {kind}-name"))
    return svg.drawing(WIDTH, height, "Perplexity against parameters", parts, "wide")


class Row(NamedTuple):
    """A difference to dense, and what differs."""

    label: str
    found: Difference


class Measure(NamedTuple):
    """What a forest plot measures differences in.

    Attributes:
        none: what no difference is: 1 where differences are factors, and their axis logarithmic.
        worse: ``right`` or ``left``: on which side of `none` things are worse than dense.
        form: writes a number; `bare` the ends of its interval, `tick` a number at the axis.
    """

    none: float
    worse: str
    form: Callable[[float], str]
    bare: Callable[[float], str]
    tick: Callable[[float], str]


FACTOR = Measure(1, "right", times, factor, lambda value: f"×{NBSP}{value:,.10g}")
"""Perplexities by the dense one."""

POINTS = Measure(0, "left", signed, signed, lambda value: f"{100 * value:.3g}".replace("-", "−"))
"""Shares of right answers, in percentage points."""


def forest(rows: Sequence[Row], measure: Measure, axis: str) -> Markup:
    """Draw differences to dense with their intervals, one under the other.

    Args:
        rows: finite ones; factors are above 0.
        measure: what they are.
        axis: what is drawn, with its unit.
    """
    left, right, top, numbers_at, row_height = 210, 510, 44, 526, 28
    bottom = top + len(rows) * row_height
    ends = [
        end
        for row in rows
        for end in (row.found.low, row.found.value, row.found.high)
        if end is not None
    ]
    across = scale_for([*ends, measure.none], left, right, log=measure.none == 1)
    none = across(measure.none)
    parts = [
        svg.text(0, 14, axis, "axis"),
        svg.line(none, top - 8, none, bottom, "none-line"),
        svg.text(none, top - 14, "as dense", "tick", "middle"),
        svg.line(left, bottom, right, bottom, "rule"),
    ]
    for value in across.ticks(4):
        at = across(value)
        parts += [
            svg.line(at, bottom, at, bottom + 5, "rule"),
            svg.text(at, bottom + 20, measure.tick(value), "tick", "middle"),
        ]
    if measure.worse == "right":
        parts.append(svg.text(right, bottom + 36, "worse →", "tick", "end"))
    else:
        parts.append(svg.text(left, bottom + 36, "← worse", "tick"))
    for at, row in enumerate(rows):
        parts.append(
            svg.text(0, top + row_height * at + 18, svg.shortened(row.label, left), "name")
        )
        parts += _interval(row, top + row_height * at + 14, across, numbers_at, measure)
    return svg.drawing(WIDTH, bottom + 42, axis, parts, "wide")


def _interval(
    row: Row, y: float, across: Scale, numbers_at: float, measure: Measure
) -> list[Markup]:
    found = row.found
    kind = "beyond" if found.beyond_noise else "within"
    parts = []
    told = measure.form(found.value)
    if found.low is not None and found.high is not None:
        low, high = across(found.low), across(found.high)
        parts.append(svg.line(low, y, high, y, f"interval {kind}"))
        parts += [svg.line(end, y - 5, end, y + 5, f"interval {kind}") for end in (low, high)]
        told += f" ({measure.bare(found.low)} to {measure.bare(found.high)})"
    parts.append(svg.mark(across(found.value), y, "square", kind, f"{row.label}: {told}"))
    parts.append(svg.text(numbers_at, y + 4, told, "number"))
    return parts


def _short(value: float) -> str:
    """Return a perplexity at an axis, in as few digits as there are."""
    if value >= 1e6:
        return f"10{_raised(round(math.log10(value)))}" if _is_power(value) else f"{value:.0e}"
    return f"{value:,.10g}"


def _is_power(value: float) -> bool:
    return math.isclose(10.0 ** round(math.log10(value)), value, rel_tol=1e-9)


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
