"""The tables of a report: what stands in which cell, as HTML. Empty columns are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from pruning_core.evaluation.intervals import LEVEL
from pruning_core.report.findings import Answers, Difference, Result, Side, Under
from pruning_core.report.numbers import (
    count,
    factor,
    percent,
    perplexity,
    plain,
    points,
    seconds,
    shown,
    signed,
    size,
    times,
    with_ends,
)
from pruning_core.report.values import readable
from pruning_core.report.wording import ratio_of


class Line(NamedTuple):
    """A row: the name in front of it, what marks it, and its cells."""

    label: str
    kind: str
    leaked: bool
    cells: tuple[Markup, ...]


class Sheet(NamedTuple):
    """A table: its heads, and its rows."""

    heads: tuple[str, ...]
    lines: tuple[Line, ...]


Cell = Callable[[Side, Result | None], Markup | None]


def quality(results: Sequence[Result]) -> Sheet:
    """Return what the dense model and every recipe are worth, and how large they are.

    Args:
        results: all measured alike. Where several processes measured the dense model and found
            it to differ, each of its numbers has a row.
    """
    return _beside_dense(_QUALITY, results)


def effort(results: Sequence[Result]) -> Sheet:
    """Return what left, and what time and memory that took; of the same results as `quality`."""
    return _beside_dense(_EFFORT, results)


def dense_sides(results: Sequence[Result]) -> list[Side]:
    """Return the dense model as often as it was found to differ, the fullest account of each."""
    found: list[Side] = []
    for result in results:
        if not any(_same(result.dense, known) for known in found):
            found.append(result.dense)
    return found


def right_answers(answers: Sequence[Answers]) -> Sheet:
    """Return every task by every metric: the dense model, and each recipe against it."""
    rows: list[tuple[str, str, bool, list[Markup | None]]] = []
    seen: list[tuple[object, ...]] = []
    order = [*dict.fromkeys(one.asked for one in answers)]
    for one in sorted(answers, key=lambda one: order.index(one.asked)):
        items = Markup("{} of {}").format(shown(one.asked.items, count), f"{one.asked.of:,}")
        chance = shown(one.chance, percent)
        for metric, dense in one.dense.items():
            name = Markup("{}").format(metric)
            if (one.asked, metric, dense) not in seen:
                seen.append((one.asked, metric, dense))
                cells = [name, items, with_ends(dense, percent), None, chance]
                rows.append((f"{one.asked.title}: dense", "dense", False, cells))
            if metric in one.pruned:
                against = judged(one.delta[metric], points, signed)
                cells = [name, items, with_ends(one.pruned[metric], percent), against, chance]
                rows.append((f"{one.asked.title}: {one.label}", "pruned", one.leaked, cells))
    return _sheet(("Metric", "Items", "Right answers", "Against dense", "Chance"), rows)


def judged(found: Difference, form: Callable[[float], str], bare: Callable[[float], str]) -> Markup:
    """Return a difference with its interval, whose ends `bare` writes, and its verdict."""
    kind = "beyond" if found.beyond_noise else "within"
    return Markup('{} <span class="verdict {}">{}</span>').format(
        with_ends(found, form, bare), kind, found.verdict
    )


def facts(under: Under, results: Sequence[Result]) -> list[tuple[str, str]]:
    """Return how a group of results was measured: what, and the values that files give for it."""
    conditions, place = under.conditions, under.place
    methods = [result.method for result in results]
    limit = "all windows" if conditions.limit is None else f"at most {conditions.limit:,}"
    stride = "windows do not overlap" if under.stride is None else f"{under.stride:,} tokens"
    measured = [side for r in results for side in (r.dense, r.pruned) if side is not None]
    known = any(side.perplexity.low is not None for side in measured)
    intervals = (
        f"{LEVEL:.0%}, bootstrap over windows; differences window by window" if known else ""
    )
    told = [
        ("Model", f"{place.model} (weights {place.fingerprint})"),
        ("Protocol", readable(conditions.protocol)),
        ("Used by", _each(method.about for method in methods)),
        ("Text", _each(f"{method.corpus}: {method.source}" for method in methods)),
        ("sha256 of the text", conditions.text),
        ("Windows", f"{_each(f'{m.windows:,}' for m in methods)} of {under.window:,} tokens"),
        ("Limit", limit),
        ("Stride", stride),
        ("Tokens predicted", _each(f"{method.tokens:,}" for method in methods)),
        ("Begin-of-text token", _each(method.bos for method in methods)),
        ("Device", place.device),
        ("Number format", place.dtype),
        ("Intervals", intervals),
        ("Versions", _each(versions(method.environment) for method in methods)),
    ]
    return [(what, readable(value)) for what, value in told if value]


def task_facts(answers: Sequence[Answers]) -> list[tuple[str, str]]:
    """Return what was asked of tasks, and where that came from."""
    found: dict[str, str] = {}
    for one in answers:
        asked = one.asked
        drawn = "the first ones" if asked.sample is None else f"drawn with seed {asked.sample}"
        which = "all" if asked.items == asked.of else f"{asked.items:,} of {asked.of:,}, {drawn}"
        note = f". {one.note}" if one.note else ""
        found[
            f"{one.source}; items: {which}; scored by {asked.scorer}; sha256 {asked.sha256}{note}"
        ] = asked.title
    return [(title, told) for told, title in found.items()]


def versions(environment: Sequence[tuple[str, str]]) -> str:
    """Return versions and machine in one line."""
    return ", ".join(f"{name} {value}" for name, value in environment)


def _beside_dense(columns: Mapping[str, Cell], results: Sequence[Result]) -> Sheet:
    rows = [
        ("dense", "dense", False, [cell(dense, None) for cell in columns.values()])
        for dense in dense_sides(results)
    ]
    rows += [
        (
            result.label,
            "pruned",
            result.leaked,
            [cell(result.pruned, result) for cell in columns.values()],
        )
        for result in results
        if result.pruned is not None
    ]
    return _sheet(tuple(columns), rows)


def _sheet(
    heads: Sequence[str], rows: Sequence[tuple[str, str, bool, Sequence[Markup | None]]]
) -> Sheet:
    """Return a table without the columns and the rows in which nothing stands."""
    used = [at for at in range(len(heads)) if any(cells[at] is not None for *_, cells in rows)]
    return Sheet(
        tuple(heads[at] for at in used),
        tuple(
            Line(label, kind, leaked, tuple(cells[at] or Markup("") for at in used))
            for label, kind, leaked, cells in rows
            if any(cell is not None for cell in cells)
        ),
    )


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(value for value in values if value))


def _same(one: Side, other: Side) -> bool:
    return (one.perplexity, one.accuracy, one.parameters) == (
        other.perplexity,
        other.accuracy,
        other.parameters,
    )


def _compared(_: Side, result: Result | None) -> Markup | None:
    if result is None:
        return None
    if result.ratio is not None:
        return judged(result.ratio, times, factor)
    ratio = ratio_of(result)
    return None if ratio is None else shown(ratio, times)


def _accuracy(side: Side, result: Result | None) -> Markup:
    told = with_ends(side.accuracy, percent)
    if result is None or result.accuracy is None:
        return told
    return Markup("{}<div>{}</div>").format(told, judged(result.accuracy, points, signed))


def _agreement(_: Side, result: Result | None) -> Markup | None:
    if result is None or result.same_prediction is None:
        return None
    return with_ends(result.same_prediction, percent)


def _divergence(_: Side, result: Result | None) -> Markup | None:
    if result is None or result.divergence is None:
        return None
    return with_ends(result.divergence, plain)


def _cell(name: str, form: Callable[[float], str]) -> Cell:
    def cell(side: Side, _: Result | None) -> Markup | None:
        value = getattr(side, name)
        return None if value is None else shown(value, form)

    return cell


_QUALITY: dict[str, Cell] = {
    "Perplexity": lambda side, _: with_ends(side.perplexity, perplexity),
    "Against dense": _compared,
    "Next token right": _accuracy,
    "Same prediction as dense": _agreement,
    "Divergence, nats": _divergence,
    "Parameters left": _cell("parameters", count),
    "Size": _cell("bytes", size),
}
"""The columns of the headline table, and what stands in them."""

_EFFORT: dict[str, Cell] = {
    "Gone of what can be pruned": _cell("of_prunable", percent),
    "Gone of the layers' matrices": _cell("of_linears", percent),
    "Gone of all": _cell("of_all", percent),
    "Time to choose": _cell("choosing", seconds),
    "Time to measure": _cell("measuring", seconds),
    "Peak memory while choosing": _cell("peak", size),
}
"""The columns of the table under it."""
