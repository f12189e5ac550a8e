"""What commands share that prune: the model is loaded, and every site gets its sparsity."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pruning_core.commands.output import note
from pruning_core.progress import Tick, silent
from pruning_core.recipe import (
    STRUCTURED,
    Calibration,
    Pattern,
    PatternKind,
    Recipe,
    Scoring,
    SiteKey,
)

if TYPE_CHECKING:
    from pruning_core.importance.map import ImportanceMap
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.allocation import Allocation
    from pruning_core.planning.plan import Plan
    from pruning_core.surgery.workbench import Workbench

MISSED = 0.005
"""A reached sparsity this far from the asked one is told."""


def load_model(options: argparse.Namespace, calibration: Calibration, tick: Tick) -> LoadedModel:
    """Load the model to be scored and say whether its memory will do for that.

    Raises:
        PrunescopeError: if there is no such model, or it cannot be pruned or held.
    """
    from pruning_core.model.loading import load

    loaded = load(
        options.model,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        window=calibration.length,
        tick=tick,
    )
    note(loaded.preflight.sentence())
    return loaded


def allotted(
    loaded: LoadedModel,
    scoring: Scoring,
    sparsity: float,
    pattern: Pattern = STRUCTURED,
    *,
    allocation: Allocation | None = None,
    ends: int = 0,
    tick: Tick = silent,
) -> tuple[dict[SiteKey, float], dict[Scoring, ImportanceMap]]:
    """Return a sparsity for every site; where the model can't come near the asked one, say so.

    Args:
        allocation: how the sparsity is shared out, by default evenly.
        ends: how many layers stay dense at either end.

    Returns:
        The sparsities, and the importance map if one had to be made for them.

    Raises:
        PrunescopeError: if that leaves no layer to prune, or the allocation does not go with the
            estimator or the pattern.
    """
    from pruning_core.importance.evidence import evidence_for
    from pruning_core.importance.registry import estimator
    from pruning_core.importance.scoring import score
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.planning.allocation import (
        Allocation,
        allocate,
        overall,
        protected_ends,
    )
    from pruning_core.planning.outliers import outlier_shares
    from pruning_core.planning.thinning import places_for

    way = allocation or Allocation.UNIFORM
    anatomy = read_anatomy(loaded.model)
    places = places_for(anatomy, estimator(scoring.estimator), pattern)
    fixed = protected_ends(places, ends)
    maps, outliers = {}, None
    if way is not Allocation.UNIFORM:
        evidence = evidence_for(loaded.model, loaded.tokenizer, anatomy, scoring.calibration, tick)
        if way is Allocation.OWL:
            outliers = outlier_shares(loaded.model, anatomy, evidence.windows, tick=tick)
        elif pattern.kind is PatternKind.STRUCTURED:
            maps[scoring] = score(scoring, evidence, loaded.fingerprint)
    shares = allocate(way, places, sparsity, fixed, scores=maps.get(scoring), outliers=outliers)
    reached = overall(places, shares)
    if abs(reached - sparsity) > MISSED:
        note(
            f"The asked sparsity of {sparsity:.2%} can't be reached with the sites that may be "
            f"pruned: {reached:.2%} is, and is measured."
        )
    return shares, maps


def planned(loaded: LoadedModel, bench: Workbench, recipe: Recipe, tick: Tick = silent) -> Plan:
    """Score and resolve a recipe as ``prune`` does; the model is dense before and after.

    Raises:
        PrunescopeError: if the recipe cannot be carried out on the model.
    """
    from pruning_core.importance.scoring import score
    from pruning_core.pipeline import resolver_for
    from pruning_core.planning.plan import check_recipe

    check_recipe(recipe, loaded.fingerprint, bench.anatomy)
    resolver = resolver_for(loaded, bench.anatomy, tick)
    if recipe.pattern.kind is not PatternKind.STRUCTURED:
        return resolver.weights(recipe, tick)
    evidence = resolver.evidence(recipe.scoring.calibration)
    return resolver.units(recipe, score(recipe.scoring, evidence, loaded.fingerprint), tick)
