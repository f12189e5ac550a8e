"""What the files of several commands have in common: names, intervals, tasks and samples."""

from __future__ import annotations

import math

from pruning_core.errors import PrunescopeError
from pruning_core.recipe import PatternKind, Recipe
from pruning_core.report.findings import (
    Answers,
    Asked,
    Difference,
    Estimate,
    Method,
    Place,
    Sample,
)
from pruning_core.report.numbers import NBSP
from pruning_core.report.values import Table, readable

DENSE = "dense"
"""What the model is called before anything leaves it."""


def label_of(recipe: Recipe, sparsity: float, name: str | None = None) -> str:
    """Return what to call a recipe: ``flap + bias, 20 %``, ``wanda, 2:4``.

    Args:
        recipe: what was pruned.
        sparsity: of the prunable parameters.
        name: of the method, where a table has given it one.
    """
    if name is None:
        scoring = recipe.scoring
        repair = [f"+ {recipe.repair.kind}"] if recipe.repair else []
        name = " ".join([scoring.estimator, *(str(value) for _, value in scoring.params), *repair])
    if recipe.pattern.kind is PatternKind.N_OF_M:
        return readable(f"{name}, {recipe.pattern}")
    what = "" if recipe.pattern.kind is PatternKind.STRUCTURED else " of weights"
    return readable(f"{name}, {100 * sparsity:.3g}{NBSP}%{what}")


def place_of(table: Table) -> Place:
    """Return on which weights and where a file's numbers were measured."""
    return Place(*(table.text(name) for name in ("model", "fingerprint", "device", "dtype")))


def method_of(file: Table, protocol: Table, windows: int, tokens: int) -> Method:
    """Return how a measurement was made.

    Args:
        file: which names the environment.
        protocol: with the text that was measured.
        windows, tokens: how many were.
    """
    environment = file.table("environment").values
    return Method(
        corpus=protocol.text("corpus"),
        source=protocol.text("source"),
        windows=windows,
        tokens=tokens,
        bos=readable(str(protocol.values.get("bos", ""))),
        about=protocol.text("about") if protocol.has("about") else "",
        environment=tuple(
            (readable(name), readable(str(value))) for name, value in environment.items()
        ),
    )


def estimate(table: Table, lowest: float, highest: float | None = None) -> Estimate:
    """Return a number and its interval as a measurement writes them; null is an overflow.

    Raises:
        PrunescopeError: if one of the three is anything else, or lies outside.
    """
    bounds = (lowest,) if highest is None else (lowest, highest)
    if "value" not in table.values:
        raise table.wrong("value", "a number")
    value, low, high = (
        table.number(name, *bounds) if table.has(name) else None
        for name in ("value", "low", "high")
    )
    return Estimate(math.inf if value is None else value, low, high)


def share(table: Table) -> Estimate:
    """Return a share and its interval; the same errors as `estimate`, and no share overflows."""
    return _finite(table, estimate(table, 0, 1))


def difference(table: Table, lowest: float, highest: float | None = None) -> Difference:
    """Return a difference to the dense model; the same errors as `share`."""
    found = _finite(table, estimate(table, lowest, highest))
    return Difference(found.value, found.low, found.high, table.flag("beyond_noise"))


def answers_of(
    tasks: Table, label: str, recipe: Recipe | None, place: Place
) -> tuple[list[Answers], list[tuple[str, str]]]:
    """Return what was asked of tasks, and which of them failed, why.

    Raises:
        PrunescopeError: if a value is missing, or cannot be.
    """
    found, failures = [], []
    for name, task in tasks.parts():
        if task.has("error"):
            failures.append((name, task.text("error")))
            continue
        dense = _by_metric(task.table("dense"))
        pruned = _by_metric(task.table("pruned"))
        delta = {metric: difference(one, -1, 1) for metric, one in task.table("delta").parts()}
        if not dense or (recipe is not None and not dense.keys() == pruned.keys() == delta.keys()):
            raise PrunescopeError(
                f"Its {task.where} does not have the same metrics for dense, pruned and delta. "
                "Take a file as evaluate wrote it."
            )
        asked = Asked(
            name,
            task.text("title"),
            task.count("items"),
            task.count("of"),
            task.count("sample") if task.has("sample") else None,
            task.text("scorer"),
            task.text("sha256"),
        )
        found.append(
            Answers(
                label,
                recipe,
                place,
                asked,
                source=task.text("source"),
                note=task.text("note") if task.has("note") else "",
                chance=task.number("chance", 0, 1),
                leaked=task.flag("leaked") if task.has("leaked") else False,
                dense=dense,
                pruned=pruned,
                delta=delta,
            )
        )
    return found, failures


def samples_of(file: Table, label: str, recipe: Recipe | None) -> list[Sample]:
    """Return what was written after prompts.

    Raises:
        PrunescopeError: if a value is missing, or cannot be.
    """
    return [
        Sample(
            label,
            recipe,
            file.text("model"),
            sample.text("prompt"),
            sample.text("dense"),
            sample.text("pruned") if sample.has("pruned") else None,
        )
        for sample in file.tables("samples")
    ]


def _by_metric(table: Table) -> dict[str, Estimate]:
    return {metric: share(one) for metric, one in table.parts()}


def _finite(table: Table, found: Estimate) -> Estimate:
    if math.isinf(found.value):
        raise table.wrong("value", "a number")
    return found
