"""Findings out of runs: what ``prune`` wrote, what the app saved, and the rows of a survey.

Each recipe is read as a saved run is, by the same checks. What ``prune`` wrote stands in no
history, so it is given a place in one of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pruning_core.evaluation.differences import over_dense
from pruning_core.evaluation.intervals import Interval, bootstrap, perplexity_of
from pruning_core.history import FORMAT, Pieces, SavedRun
from pruning_core.history.saved import saved_run
from pruning_core.report.findings import (
    Difference,
    Estimate,
    Findings,
    Place,
    Result,
    Side,
    Under,
)
from pruning_core.report.parts import (
    answers_of,
    label_of,
    method_of,
    place_of,
    samples_of,
)
from pruning_core.report.values import Table, readable

_SHARED = ("model", "fingerprint", "device", "dtype", "protocol", "leaked", "dense")
"""What the rows of a survey have in common, as a run names it."""


def run_findings(file: Table) -> Findings:
    """Return what a run holds, the recipes beside it included.

    Raises:
        PrunescopeError: if a value is missing, or cannot be.
    """
    saved = _saved(file.values, 0)
    name = readable(saved.name) or None
    label = name or label_of(saved.recipe, saved.sparsity)
    first = _result(file, file.table("pruned"), saved, label)
    beside = []
    for number, entry in enumerate(file.tables("beside"), 1):
        values = {**file.values, "recipe": entry.values.get("recipe"), "pruned": entry.values}
        other = _saved({**values, "history": None, "tasks": {}}, number)
        beside.append(_result(file, entry, other, label_of(other.recipe, other.sparsity)))
    answers, failures = answers_of(file.table("tasks"), label, saved.recipe, first.under.place)
    samples = samples_of(file, label, saved.recipe)
    return Findings((first, *beside), tuple(answers), tuple(samples), failures=tuple(failures))


def survey_findings(file: Table) -> Findings:
    """Return what a survey holds, finished or not; the same errors as `run_findings`."""
    shared = {"format": FORMAT, **{name: file.values.get(name) for name in _SHARED}}
    results = []
    for number, row in enumerate(file.tables("rows")):
        values = {**shared, "recipe": row.values.get("recipe"), "pruned": row.values}
        saved = _saved(values, number)
        label = label_of(saved.recipe, saved.sparsity, row.text("label"))
        results.append(_result(file, row, saved, label))
    notes = file.texts("notes")
    if not file.flag("complete"):
        notes.append(
            f"The survey of {file.text('model')} was not finished when its file was read: "
            f"{len(results)} rows were measured."
        )
    return Findings(tuple(results), notes=tuple(notes))


def _saved(values: Mapping[str, Any], number: int) -> SavedRun:
    """Return a run as one of a history, after checking all of it."""
    history = values.get("history") or {
        "id": f"{number:013x}-{0:08x}",
        "lineage": [],
        "name": "",
        "created": "1970-01-01T00:00:00+00:00",
    }
    return saved_run({**values, "history": history})


def _result(file: Table, entry: Table, saved: SavedRun, label: str) -> Result:
    dense, protocol = file.table("dense"), file.table("protocol")
    place = place_of(file)
    quality = entry.table("quality")
    stride = protocol.count("stride") if protocol.has("stride") else None
    loss, seconds = over_dense(saved), entry.table("seconds")
    ratio = None
    if loss is not None:
        low, high = _exponentials(loss)
        ratio = Difference(perplexity_of(loss.value), low, high, loss.beyond_noise)
    return Result(
        label=label,
        recipe=saved.recipe,
        under=Under(place, saved.conditions, protocol.count("window"), stride),
        method=method_of(file, protocol, quality.count("windows"), quality.count("tokens")),
        leaked=saved.leaked,
        dense=replace(
            _side(dense, saved.dense_perplexity, saved.dense_pieces, place),
            measuring=_spent(file.table("seconds"), "measuring dense"),
        ),
        pruned=replace(
            _side(entry, saved.perplexity, saved.pieces, place),
            choosing=_spent(seconds, "scoring", "planning"),
            measuring=_spent(seconds, "measuring"),
        ),
        ratio=ratio,
        saved=saved,
    )


def _side(entry: Table, perplexity: float, pieces: Pieces | None, place: Place) -> Side:
    cost, peak = entry.table("cost"), entry.table("peak_memory_bytes")
    memory = "gpu" if place.device.startswith("cuda") and peak.has("gpu") else "main"

    def share(name: str) -> float | None:
        return entry.number(name, 0, 1) if entry.has(name) else None

    return Side(
        perplexity=_with_interval(perplexity, pieces),
        accuracy=Estimate(entry.table("quality").number("accuracy", 0, 1)),
        parameters=cost.count("parameters"),
        bytes=cost.count("bytes"),
        of_prunable=share("sparsity_of_prunable"),
        of_linears=share("sparsity_of_linears"),
        of_all=share("sparsity_of_all"),
        peak=peak.count(memory) if peak.has(memory) else None,
    )


def _spent(seconds: Table, *stages: str) -> float | None:
    """Return how long stages took together; None where the file names none of them."""
    found = [seconds.number(stage, 0) for stage in stages if seconds.has(stage)]
    return sum(found) if found else None


def _with_interval(perplexity: float, pieces: Pieces | None) -> Estimate:
    if pieces is None:
        return Estimate(perplexity)
    return Estimate(perplexity, *_exponentials(bootstrap(pieces.losses, pieces.tokens)))


def _exponentials(loss: Interval) -> tuple[float | None, float | None]:
    """Return the ends of a loss's interval as perplexities; None where it has none."""
    ends = (perplexity_of(end) for end in (loss.low, loss.high))
    low, high = (end if math.isfinite(end) else None for end in ends)
    return (low, high) if math.isfinite(loss.low) else (None, None)
