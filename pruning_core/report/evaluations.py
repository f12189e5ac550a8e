"""Findings out of what ``evaluate`` wrote: every number brings its interval along."""

from __future__ import annotations

from dataclasses import replace

from pruning_core.errors import PrunescopeError
from pruning_core.history import Conditions, key_recipe_of
from pruning_core.recipe import Recipe
from pruning_core.report.findings import Findings, Place, Result, Side, Under
from pruning_core.report.parts import (
    DENSE,
    answers_of,
    difference,
    estimate,
    label_of,
    method_of,
    place_of,
    samples_of,
    share,
)
from pruning_core.report.values import Table


def evaluation_findings(file: Table) -> Findings:
    """Return what an evaluation holds; what failed in it is told beside the rest.

    Raises:
        PrunescopeError: if a value is missing, or cannot be.
    """
    place = place_of(file)
    recipe, label = None, DENSE
    if file.has("recipe"):
        recipe = key_recipe_of(file.values["recipe"])
        if recipe.fingerprint != place.fingerprint:
            raise PrunescopeError("Its recipe is for another model than the one that was measured.")
        label = label_of(recipe, file.number("sparsity_of_prunable", 0, 1))
    results, failures = [], []
    for name, protocol in file.table("protocols").parts():
        if protocol.has("error"):
            failures.append((name, protocol.text("error")))
        else:
            results.append(_result(file, protocol, place, recipe, label))
    answers, unasked = answers_of(file.table("tasks"), label, recipe, place)
    return Findings(
        tuple(results),
        tuple(answers),
        tuple(samples_of(file, label, recipe)),
        failures=(*failures, *unasked),
    )


def _result(
    file: Table, protocol: Table, place: Place, recipe: Recipe | None, label: str
) -> Result:
    conditions = Conditions(
        protocol.text("name"),
        protocol.text("title"),
        protocol.count("limit") if protocol.has("limit") else None,
        protocol.text("sha256"),
        place.device,
        place.dtype,
    )
    stride = protocol.count("stride") if protocol.has("stride") else None
    result = Result(
        label=label,
        recipe=recipe,
        under=Under(place, conditions, protocol.count("window"), stride),
        method=method_of(file, protocol, protocol.count("windows"), protocol.count("tokens")),
        leaked=protocol.flag("leaked"),
        dense=_side(protocol.table("dense")),
    )
    return result if recipe is None else _beside(result, file, protocol)


def _beside(result: Result, file: Table, protocol: Table) -> Result:
    delta, agreement = protocol.table("delta"), protocol.table("agreement")
    ratio = delta.table("perplexity_ratio")
    pruned = replace(
        _side(protocol.table("pruned")), of_prunable=file.number("sparsity_of_prunable", 0, 1)
    )
    return replace(
        result,
        pruned=pruned,
        # What overflowed has no ratio.
        ratio=difference(ratio, 0) if ratio.has("value") else None,
        accuracy=difference(delta.table("accuracy"), -1, 1),
        divergence=estimate(agreement.table("divergence"), 0),
        same_prediction=share(agreement.table("same_prediction")),
    )


def _side(measured: Table) -> Side:
    return Side(
        perplexity=estimate(measured.table("perplexity"), 0),
        accuracy=share(measured.table("accuracy")),
    )
