"""Which charts a report has: only what was measured alike shares an axis.

What cannot be drawn, since it overflowed, is named under the chart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from markupsafe import Markup

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import LEVEL
from pruning_core.recipe import PatternKind, Recipe
from pruning_core.report import bars, charts
from pruning_core.report.findings import Answers, Estimate, Findings, Result
from pruning_core.report.tables import dense_sides
from pruning_core.report.wording import measured_as

MOST_LAYERS = 10_000
"""A recipe that names a layer beyond is none."""

Anything = TypeVar("Anything")
Key = TypeVar("Key", bound=Hashable)


class Figure(NamedTuple):
    """A chart, the heading above it and what is to be said under it."""

    heading: str
    chart: Markup
    caption: str = ""


def grouped(found: Iterable[Anything], key: Callable[[Anything], Key]) -> dict[Key, list[Anything]]:
    """Return things by what they have in common, in their order."""
    groups: dict[Key, list[Anything]] = {}
    for one in found:
        groups.setdefault(key(one), []).append(one)
    return groups


def sizes(results: Sequence[Result]) -> list[Figure]:
    """Return a chart of size and quality for each way of measuring that has any of it."""
    figures = []
    for under, group in grouped(results, lambda result: result.under).items():
        found, absent = [], []
        for dense in dense_sides(group):
            if dense.parameters is not None and math.isfinite(dense.perplexity.value):
                found.append(
                    charts.Point("dense", dense.parameters, dense.perplexity.value, "diamond")
                )
        for result in group:
            side = result.pruned
            if side is None or side.parameters is None or result.recipe is None:
                continue
            if math.isinf(side.perplexity.value):
                absent.append(result.label)
                continue
            units = result.recipe.pattern.kind is PatternKind.STRUCTURED
            shape = "circle" if units else "square"
            found.append(
                charts.Point(
                    result.label,
                    side.parameters,
                    side.perplexity.value,
                    shape,
                    leaked=result.leaked,
                )
            )
        if any(point.shape != "diamond" for point in found):
            shapes = {point.shape for point in found}
            caption = f"{_legend(shapes)} {_absent(absent)}".strip()
            figures.append(Figure(measured_as(under), charts.size_against_quality(found), caption))
    return figures


def differences(findings: Findings) -> list[Figure]:
    """Return charts of what differs from dense, each with its intervals."""
    figures = []
    for under, group in grouped(findings.results, lambda result: result.under).items():
        where = measured_as(under)
        ratios = [
            charts.Row(_name(result), result.ratio)
            for result in group
            if result.ratio is not None and result.ratio.low and math.isfinite(result.ratio.value)
        ]
        accuracies = [
            charts.Row(_name(result), result.accuracy)
            for result in group
            if result.accuracy is not None and result.accuracy.low is not None
        ]
        if ratios:
            chart = charts.forest(ratios, charts.FACTOR, "Perplexity, times dense")
            figures.append(Figure(where, chart))
        if accuracies:
            axis = "Next token right, percentage points against dense"
            chart = charts.forest(accuracies, charts.POINTS, axis)
            figures.append(Figure(where, chart))
    asked = grouped(findings.answers, lambda one: (one.place, one.asked))
    for (place, task), answers in asked.items():
        rows = [
            charts.Row(f"{metric}: {_name(one)}", delta)
            for one in answers
            for metric, delta in one.delta.items()
            if delta.low is not None
        ]
        if rows:
            axis = "Right answers, percentage points against dense"
            where = f"{task.title} · {task.items:,} items · {place.dtype} on {place.device}"
            figures.append(Figure(where, charts.forest(rows, charts.POINTS, axis)))
    return figures


def tasks(answers: Sequence[Answers]) -> list[Figure]:
    """Return a chart of right answers for each place where tasks were asked.

    Every task has a panel of its own, by each metric, for each choice of its items.
    """
    figures = []
    for place, here in grouped(answers, lambda one: one.place).items():
        panels = []
        for (asked, _), group in grouped(here, lambda one: (one.asked, one.chance)).items():
            for metric in dict.fromkeys(name for one in group for name in one.dense):
                title = f"{asked.title} · {metric} · {asked.items:,} of {asked.of:,} items"
                panels.append(bars.Panel(title, group[0].chance, _bars(group, metric)))
        where = f"{place.model} · {place.dtype} on {place.device}"
        figures.append(Figure(where, bars.right_answers(panels), _METRICS))
    return figures


def shapes(recipes: Sequence[tuple[str, Recipe]]) -> list[Figure]:
    """Return how much leaves each layer: a chart for each recipe, shared by those that ask alike.

    Args:
        recipes: with what they are called.

    Raises:
        PrunescopeError: if one names a layer that no model has.
    """
    count: dict[str, int] = {}
    for _, recipe in recipes:
        last = max((site.layer for site, _ in recipe.sparsity), default=0)
        if last >= MOST_LAYERS:
            raise PrunescopeError(
                f"A recipe names layer {last:,}: a report draws models of up to {MOST_LAYERS:,} "
                "layers. Save the recipe again from the app, or with --save-recipe."
            )
        count[recipe.fingerprint] = max(count.get(recipe.fingerprint, 0), last + 1)
    alike = grouped(recipes, lambda named: (named[1].fingerprint, named[1].sparsity))
    return [
        Figure(
            "; ".join(label for label, _ in group),
            bars.layers(dict(sparsity), count[fingerprint]),
        )
        for (fingerprint, sparsity), group in alike.items()
    ]


_METRICS = (
    "acc: the answer whose text is the most probable as a whole. acc_norm: the same, by the "
    f"length of the text. Thin lines are {LEVEL:.0%} intervals, dashed ones what guessing gets "
    "right."
)


def _legend(shapes: set[str]) -> str:
    told = {"diamond": "◆ dense", "circle": "● whole units left", "square": "■ weights are zero"}
    return ", ".join(words for shape, words in told.items() if shape in shapes) + "."


def _absent(labels: Sequence[str]) -> str:
    return f"Not drawn, since its perplexity overflowed: {'; '.join(labels)}." if labels else ""


def _name(one: Result | Answers) -> str:
    return f"{one.label} (leaked)" if one.leaked else one.label


def _bars(group: Sequence[Answers], metric: str) -> list[bars.Bar]:
    dense: list[Estimate] = []
    for one in group:
        if metric in one.dense and one.dense[metric] not in dense:
            dense.append(one.dense[metric])
    pruned = [
        bars.Bar(_name(one), one.pruned[metric], False) for one in group if metric in one.pruned
    ]
    return [*(bars.Bar("dense", share, True) for share in dense), *pruned]
