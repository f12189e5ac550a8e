"""What was done to a model and what it cost, in sentences for people who decide.

Every number in them carries its exact value; everything out of a file is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from pruning_core.recipe import PatternKind, Recipe
from pruning_core.repair import RepairKind
from pruning_core.report.findings import Result, Side, Under
from pruning_core.report.numbers import (
    count,
    percent,
    perplexity,
    shown,
    size,
    times,
)
from pruning_core.report.values import readable


class Told(NamedTuple):
    """A recipe in words.

    Attributes:
        label: what it is called.
        digest: identifies it.
        done: what was done.
        size: what became of the model's size; empty where no file knows.
        costs: what became of its quality, a sentence for each way it was measured.
        leaked: whether any of these measured its calibration text.
    """

    label: str
    digest: str
    done: Markup
    size: Markup
    costs: tuple[Markup, ...]
    leaked: bool


def told(recipe: Recipe, results: Sequence[Result], label: str, *, leaked: bool) -> Told:
    """Return a recipe in words.

    Args:
        recipe: what was pruned.
        results: all of this recipe.
        label: what it is called.
        leaked: whether any of its numbers comes from calibration text.
    """
    sides = [result.pruned for result in results if result.pruned is not None]
    gone = next((side.of_prunable for side in sides if side.of_prunable is not None), None)
    sizes = next((_size(r.dense, r.pruned) for r in results if r.pruned and _sized(r)), Markup(""))
    return Told(
        label, recipe.digest, _done(recipe, gone), sizes, tuple(map(_cost, results)), leaked
    )


def measured_as(under: Under) -> str:
    """Return how something was measured, in one line."""
    conditions, place = under.conditions, under.place
    limit = "" if conditions.limit is None else f", at most {conditions.limit:,} windows"
    return f"{readable(conditions.title)}{limit} · {place.dtype} on {place.device}"


def ratio_of(result: Result) -> float | None:
    """Return a recipe's perplexity, times the dense one; None where either is not finite."""
    if result.ratio is not None:
        return result.ratio.value
    if result.pruned is None:
        return None
    before, after = result.dense.perplexity.value, result.pruned.perplexity.value
    return after / before if before and math.isfinite(before) and math.isfinite(after) else None


def _done(recipe: Recipe, gone: float | None) -> Markup:
    pattern, calibration = recipe.pattern, recipe.scoring.calibration
    if pattern.kind is PatternKind.STRUCTURED:
        what = "whole units (attention heads and MLP channels) were taken out of {}"
    elif pattern.kind is PatternKind.UNSTRUCTURED:
        what = "single weights of {} were set to zero"
    else:
        what = f"{pattern.n} of every {pattern.m} neighbouring weights of {{}} were set to zero"
    share = Markup("") if gone is None else _share(gone)
    params = ", ".join(f"{name} {value}" for name, value in recipe.scoring.params)
    settings = Markup(" ({})").format(readable(params)) if params else Markup("")
    chosen = Markup(
        "The method {}{} chose which, with {} pieces of {} tokens of the text “{}” to calibrate "
        "on. {}"
    ).format(
        readable(recipe.scoring.estimator),
        settings,
        f"{calibration.windows:,}",
        f"{calibration.length:,}",
        readable(calibration.corpus),
        _repaired(recipe),
    )
    opening = Markup(what[0].upper() + what[1:]).format(readable(recipe.model))
    return Markup("{}{}. {}").format(opening, share, chosen)


def _share(gone: float) -> Markup:
    return Markup(": {} of what can be pruned there").format(shown(gone, percent))


def _repaired(recipe: Recipe) -> str:
    repair = recipe.repair
    if not repair:
        return "What stayed was not repaired."
    how = (
        "solved again, so that it makes up for what left"
        if repair.kind is RepairKind.RIDGE
        else "given biases that stand in for what left"
    )
    return (
        f"What stayed was repaired: {how} (method {repair.kind}, on {repair.windows:,} pieces of "
        "the same text)."
    )


def _sized(result: Result) -> bool:
    sides = (result.dense, result.pruned)
    return all(side is not None and side.parameters and side.bytes is not None for side in sides)


def _size(dense: Side, pruned: Side) -> Markup:
    """Return what became of the size; `_sized` has seen that both are known."""
    before, after = dense.parameters or 0, pruned.parameters or 0
    counted = Markup("Of {} parameters {} are left ({} fewer)").format(
        shown(before, count), shown(after, count), percent(1 - after / before)
    )
    if dense.bytes == pruned.bytes:
        return Markup(
            "{}; the size in memory stays {}, since a zero takes as much room as any number."
        ).format(counted, shown(dense.bytes, size))
    return Markup("{}; {} become {}.").format(
        counted, shown(dense.bytes, size), shown(pruned.bytes, size)
    )


def _cost(result: Result) -> Markup:
    where = measured_as(result.under)
    before = shown(result.dense.perplexity.value, perplexity)
    if result.pruned is None:
        return Markup("The dense model has a perplexity of {} ({}).").format(before, where)
    after = result.pruned.perplexity.value
    if math.isinf(after):
        return Markup(
            "Perplexity was {}, and {}: the pruned model is no longer of any use ({})."
        ).format(before, shown(after, perplexity), where)
    ratio = ratio_of(result)
    compared = Markup("")
    if ratio is not None:
        judged = f", {result.ratio.verdict}" if _has_interval(result) and result.ratio else ""
        compared = Markup(", that is {}{}").format(shown(ratio, times), judged)
    return Markup("Perplexity, of which less is better, went from {} to {}{} ({}).").format(
        before, shown(after, perplexity), compared, where
    )


def _has_interval(result: Result) -> bool:
    return result.ratio is not None and result.ratio.low is not None
