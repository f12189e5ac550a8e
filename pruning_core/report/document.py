"""The page: what was found, put into the template. It asks no other file and no other machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.differences import disagreements
from pruning_core.evaluation.intervals import LEVEL
from pruning_core.recipe import Recipe
from pruning_core.report import figures, tables
from pruning_core.report.findings import Findings, Result, Sample
from pruning_core.report.joining import Named, joined
from pruning_core.report.numbers import perplexity, shown
from pruning_core.report.reading import findings_of
from pruning_core.report.values import plain, readable
from pruning_core.report.wording import Told, measured_as, told

TEMPLATE = "report.html.j2"

FOLDED = 6
"""With more recipes than this, their paragraphs are folded away under a line about the best."""


class Group(NamedTuple):
    """Results that were measured alike, and how."""

    title: str
    quality: tables.Sheet
    effort: tables.Sheet
    facts: list[tuple[str, str]]


class TaskGroup(NamedTuple):
    """Tasks that were asked of one model in one place."""

    title: str
    sheet: tables.Sheet
    facts: list[tuple[str, str]]


class Written(NamedTuple):
    """What was written after prompts for one recipe, or by the dense model alone."""

    label: str
    samples: list[Sample]


def report_of(
    values: Sequence[Mapping[str, Any]],
    title: str | None = None,
    made: datetime | None = None,
) -> str:
    """Return runs and comparisons as the text of an HTML file that needs nothing besides itself.

    Args:
        values: of files, as ``prune``, ``evaluate`` and ``survey`` write them with ``--json``, or
            as `Run.as_dict` and saved runs have them.
        title: of the page; by default it names the models.
        made: when; by default now.

    Raises:
        PrunescopeError: if a file's format is unknown, a value is missing or cannot be, or there is
            nothing measured in any of them.
    """
    files = plain(values)
    findings = joined([findings_of(one) for one in files])
    if not findings:
        raise PrunescopeError(
            "There is nothing measured in these files: name what prune, evaluate or survey wrote "
            "with --json."
        )
    when = made or datetime.now(UTC)
    page = _template().render(
        title=readable(title or _title(findings)),
        made=f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".strip(),
        made_exactly=when.isoformat(timespec="seconds"),
        level=f"{LEVEL:.0%}",
        recipes=_told(findings),
        folded=FOLDED,
        best=_best(findings.results),
        groups=_groups(findings),
        sizes=figures.sizes(findings.results),
        differences=figures.differences(findings),
        tasks=figures.tasks(findings.answers),
        task_groups=_task_groups(findings),
        shapes=figures.shapes(_recipes(findings)),
        written=_written(findings),
        warnings=_warnings(findings),
        failures=findings.failures,
        notes=findings.notes,
        sources=[
            (label, json.dumps(recipe.as_dict(), indent=2, ensure_ascii=False))
            for label, recipe in _recipes(findings)
        ],
        values=_embedded(files),
    )
    # What is half a character has no bytes; nothing else is changed.
    return page.encode("utf-8", "replace").decode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def _embedded(files: Sequence[Mapping[str, Any]]) -> Markup:
    """Return files as JSON that no script element ends in: ``<`` only stands in texts."""
    text = json.dumps(files, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _models(findings: Findings) -> list[str]:
    named = [result.under.place.model for result in findings.results]
    named += [one.place.model for one in findings.answers]
    named += [one.model for one in findings.samples]
    return [*dict.fromkeys(named)]


def _title(findings: Findings) -> str:
    models = ", ".join(_models(findings))
    return f"What pruning does to {models}" if _recipes(findings) else f"What {models} measures"


def _recipes(findings: Findings) -> list[tuple[str, Recipe]]:
    """Return every recipe once, with what it is called."""
    found: dict[str, tuple[str, Recipe]] = {}
    named: list[Named] = [*findings.results, *findings.answers, *findings.samples]
    for one in named:
        if one.recipe is not None:
            found.setdefault(one.recipe.digest, (one.label, one.recipe))
    return [*found.values()]


def _told(findings: Findings) -> list[Told]:
    leaks = [(one.recipe, one.leaked) for one in findings.results]
    leaks += [(one.recipe, one.leaked) for one in findings.answers]
    return [
        told(
            recipe,
            [result for result in findings.results if result.recipe == recipe],
            label,
            leaked=(recipe, True) in leaks,
        )
        for label, recipe in _recipes(findings)
    ]


def _best(results: Sequence[Result]) -> list[Markup]:
    """Return for each way of measuring which of several recipes has the lowest perplexity."""
    said = []
    for under, group in figures.grouped(results, lambda result: result.under).items():
        pruned = [(r.pruned.perplexity.value, r) for r in group if r.pruned and not r.leaked]
        if len(pruned) < 2 or math.isinf(min(value for value, _ in pruned)):
            continue
        lowest, best = min(pruned, key=lambda one: one[0])
        said.append(
            Markup(
                "Of {} recipes measured alike ({}), {} has the lowest perplexity: {}, where the "
                "dense model has {}."
            ).format(
                len(pruned),
                measured_as(under),
                best.label,
                shown(lowest, perplexity),
                shown(best.dense.perplexity.value, perplexity),
            )
        )
    return said


def _groups(findings: Findings) -> list[Group]:
    groups = figures.grouped(findings.results, lambda result: result.under)
    return [
        Group(
            measured_as(under),
            tables.quality(group),
            tables.effort(group),
            tables.facts(under, group),
        )
        for under, group in groups.items()
    ]


def _task_groups(findings: Findings) -> list[TaskGroup]:
    groups = figures.grouped(findings.answers, lambda one: one.place)
    return [
        TaskGroup(
            f"{place.model} · {place.dtype} on {place.device}",
            tables.right_answers(group),
            tables.task_facts(group),
        )
        for place, group in groups.items()
    ]


def _written(findings: Findings) -> list[Written]:
    groups = figures.grouped(findings.samples, lambda one: (one.model, one.label))
    return [Written(f"{model}: {label}", group) for (model, label), group in groups.items()]


def _warnings(findings: Findings) -> list[str]:
    """Return what a reader must know before numbers are compared."""
    said = []
    ways = {result.under for result in findings.results}
    if len(ways) > 1:
        said.append(
            f"Perplexity was measured in {len(ways)} ways that differ in text, windows, device, "
            "number format or model. Numbers of different tables cannot be compared with each "
            "other, so no chart shows two of them."
        )
    if len({result.under.place.fingerprint for result in findings.results}) > 1:
        said.append("The files are of different models: how hard a text is depends on the model.")
    runs = [result.saved for result in findings.results if result.saved and result.saved.tasks]
    # Runs of files that are in no history are equal, whatever they hold.
    names = {id(result.saved): result.label for result in findings.results}
    for found in disagreements(runs):
        better, right = (names[id(run)] for run in (found.better_perplexity, found.better_task))
        said.append(
            f"Perplexity and a task disagree, both by more than noise: {better} has the lower "
            f"perplexity, {right} the more right answers in {found.task} ({found.metric})."
        )
    return [readable(sentence) for sentence in said]
