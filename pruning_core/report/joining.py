"""The findings of several files as one: told once, with one name for each recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Protocol, TypeVar

from pruning_core.recipe import Recipe
from pruning_core.report.findings import Findings, Result, Side

SAME = 1e-6
"""Two measurements of one recipe whose numbers differ by less, relatively, are one."""

DIGITS = 6
"""Of a recipe's digest, where its name alone would not do."""

Anything = TypeVar("Anything")
Filled = TypeVar("Filled", Side, Result)


class Named(Protocol):
    """What carries a recipe and the name of it."""

    @property
    def label(self) -> str:
        """The name."""

    @property
    def recipe(self) -> Recipe | None:
        """The recipe; None for the dense model alone."""


def joined(found: Sequence[Findings]) -> Findings:
    """Return the findings of several files as one.

    What two files tell of the same measurement is there once, with all that either says of it. A
    file that does not say how large a pruned model is takes that from another that does: the same
    recipe leaves the same.
    """
    results: list[Result] = []
    for result in (one for file in found for one in file.results):
        at = next((at for at, known in enumerate(results) if _repeats(known, result)), None)
        if at is None:
            results.append(result)
        else:
            results[at] = _completed(results[at], result)
    answers = _once(one for file in found for one in file.answers)
    samples = _once(one for file in found for one in file.samples)
    names = _names([*results, *answers, *samples])
    return Findings(
        tuple(replace(one, label=names[_key(one.recipe)]) for one in _sized(results)),
        tuple(replace(one, label=names[_key(one.recipe)]) for one in answers),
        tuple(replace(one, label=names[_key(one.recipe)]) for one in samples),
        tuple(_once(note for file in found for note in file.notes)),
        tuple(_once(failure for file in found for failure in file.failures)),
    )


def _names(all_named: Iterable[Named]) -> dict[str, str]:
    """Return the name of every recipe by its digest: the first it was called, made unique."""
    first: dict[str, str] = {}
    for one in all_named:
        first.setdefault(_key(one.recipe), one.label)
    called = [*first.values()]
    return {
        key: f"{label} ({key[:DIGITS]})" if called.count(label) > 1 else label
        for key, label in first.items()
    }


def _key(recipe: Recipe | None) -> str:
    return "" if recipe is None else recipe.digest


def _once(found: Iterable[Anything]) -> list[Anything]:
    kept: list[Anything] = []
    for one in found:
        if one not in kept:
            kept.append(one)
    return kept


def _repeats(one: Result, other: Result) -> bool:
    """Return whether two results are one measurement, told twice."""
    return (
        (one.recipe, one.under) == (other.recipe, other.under)
        and _alike(one.dense, other.dense)
        and _alike(one.pruned, other.pruned)
    )


def _alike(one: Side | None, other: Side | None) -> bool:
    if one is None or other is None:
        return one is other
    return all(
        math.isclose(getattr(one, name).value, getattr(other, name).value, rel_tol=SAME)
        for name in ("perplexity", "accuracy")
    )


def _completed(one: Result, other: Result) -> Result:
    """Return a result with what only another tells of the same measurement."""
    pruned = one.pruned
    if pruned is not None and other.pruned is not None:
        pruned = _side(pruned, other.pruned)
    return replace(
        _filled(one, other),
        dense=_side(one.dense, other.dense),
        pruned=pruned,
        leaked=one.leaked or other.leaked,
    )


def _side(one: Side, other: Side) -> Side:
    estimates = {
        name: getattr(one if getattr(one, name).low is not None else other, name)
        for name in ("perplexity", "accuracy")
    }
    return replace(_filled(one, other), **estimates)


def _filled(one: Filled, other: Filled) -> Filled:
    """Return the one, with the other's value wherever it has none."""
    absent = [field.name for field in fields(one) if getattr(one, field.name) is None]
    return replace(one, **{name: getattr(other, name) for name in absent})


def _sized(results: Sequence[Result]) -> list[Result]:
    """Return results whose sizes are known wherever any file of the same model knows them."""
    known: dict[object, Side] = {}
    for result in results:
        for recipe, side in ((None, result.dense), (result.recipe, result.pruned)):
            if side is not None and side.parameters is not None:
                known.setdefault((result.under.place, recipe), side)

    def sized(result: Result, recipe: Recipe | None, side: Side) -> Side:
        from_there = known.get((result.under.place, recipe))
        if from_there is None or side.parameters is not None:
            return side
        names = ("parameters", "bytes", "of_prunable", "of_linears", "of_all")
        return replace(side, **{name: getattr(from_there, name) for name in names})

    return [
        replace(
            result,
            dense=sized(result, None, result.dense),
            pruned=None if result.pruned is None else sized(result, result.recipe, result.pruned),
        )
        for result in results
    ]
