"""From one overall sparsity to the sparsity of every site. Pure arithmetic.

An allocation is a shape, how the sites should differ from each other, and one level added to it
everywhere so that the whole comes to the asked sparsity. Sites reach only certain sparsities
(attention few, an MLP one per channel, single weights nearly any), so whatever is asked is made of
reachable ones, and the places with fine steps make up for what the coarse ones round away. The
parameters removed then meet the asked overall sparsity within one unit per free fine place, as far
as fixed sites leave room and there are fine places to prune. Where they do not, every free site
goes to the reachable sparsity nearest to its share, and `overall` says what that amounts to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.map import ImportanceMap
from pruning_core.model.anatomy import Anatomy, most_ends
from pruning_core.planning.global_ranking import global_ranking
from pruning_core.recipe import SiteKey, SiteKind, check_sparsity


@dataclass(frozen=True)
class Place:
    """A site as allocation sees it.

    Attributes:
        key: the site.
        size: parameters that a sparsity of 1 removes.
        snap: returns the reachable sparsity nearest to the one it is given.
        coarse: whether its steps are too coarse to make up for the rounding of others.
    """

    key: SiteKey
    size: int
    snap: Callable[[float], float]
    coarse: bool


class Allocation(StrEnum):
    """The ways to share an overall sparsity out.

    UNIFORM: every site the same. RANKING: all units compete in one ranking. OWL: layers with many
    outliers keep more. LAYERS: whole layers leave.
    """

    UNIFORM = "uniform"
    RANKING = "ranking"
    OWL = "owl"
    LAYERS = "layers"


def allocate(
    allocation: Allocation,
    places: Sequence[Place],
    sparsity: float,
    fixed: Mapping[SiteKey, float] | None = None,
    *,
    scores: ImportanceMap | None = None,
    outliers: torch.Tensor | None = None,
) -> dict[SiteKey, float]:
    """Share an overall sparsity out in one of the ways; see the functions for the arguments.

    Raises:
        PrunescopeError: if the way needs scores of units, which single weights have not, or as the
            function for it.
    """
    if allocation is Allocation.UNIFORM:
        return uniform(places, sparsity, fixed)
    if allocation is Allocation.OWL:
        assert outliers is not None, "whoever asks for OWL gathers outliers"
        return owl(places, sparsity, outliers, fixed=fixed)
    if scores is None:
        raise PrunescopeError(
            f"The allocation '{allocation}' compares units, and under this pattern single weights "
            "leave: choose 'uniform' or 'owl'."
        )
    share = one_ranking if allocation is Allocation.RANKING else whole_layers
    return share(places, sparsity, scores, fixed)


def unit_places(anatomy: Anatomy) -> tuple[Place, ...]:
    """Return the places from which units leave, in layer order."""
    return tuple(
        Place(
            site.key,
            site.parameters,
            lambda share, site=site: site.snap(share).sparsity,  # type: ignore[misc]
            site.key.kind is SiteKind.ATTENTION,
        )
        for site in anatomy.sites
    )


def uniform(
    places: Sequence[Place], sparsity: float, fixed: Mapping[SiteKey, float] | None = None
) -> dict[SiteKey, float]:
    """Give every free site the same sparsity so that the model reaches an overall one.

    Args:
        places: where something may leave.
        sparsity: fraction of the parameters of all places that should leave.
        fixed: sites that keep the sparsity they have (locks, protected ends); the others make up
            for them as far as they can.

    Returns:
        A reachable sparsity for every place.

    Raises:
        PrunescopeError: if `sparsity` is not between 0 and 1.
    """
    return shaped(places, sparsity, {}, fixed)


def shaped(
    places: Sequence[Place],
    sparsity: float,
    shape: Mapping[SiteKey, float],
    fixed: Mapping[SiteKey, float] | None = None,
) -> dict[SiteKey, float]:
    """Give the free sites sparsities that differ as a shape does and reach an overall one.

    Args:
        shape: by how much a site should be sparser than one that is not named; see `uniform` for
            the others.

    Raises:
        PrunescopeError: if `sparsity` is not between 0 and 1.
    """
    check_sparsity(sparsity, "the whole model")
    fixed = fixed or {}
    result = {place.key: place.snap(fixed[place.key]) for place in places if place.key in fixed}
    free = [place for place in places if place.key not in fixed]
    rest = sparsity * sum(place.size for place in places)
    rest -= sum(result[place.key] * place.size for place in places if place.key in result)
    for coarse in (True, False):
        level = _level([p for p in free if p.key not in result], shape, rest)
        here = [place for place in free if place.coarse is coarse]
        shares = _snapped(here, shape, level)
        result |= shares
        rest -= sum(shares[place.key] * place.size for place in here)
    return {place.key: result[place.key] for place in places}


def protect_ends(
    places: Sequence[Place],
    sparsity: float,
    ends: int,
    fixed: Mapping[SiteKey, float] | None = None,
) -> dict[SiteKey, float]:
    """Keep the first and last layers dense and let those between carry the overall sparsity.

    The ends matter most to what a model computes (LLM-Pruner prunes layers 4 to 29 of 32).

    Args:
        ends: how many layers stay dense at either end; at least one layer must be left between.

    Raises:
        PrunescopeError: if `ends` is negative or leaves no layer to prune, or `sparsity` is not
            between 0 and 1.
    """
    return uniform(places, sparsity, {**protected_ends(places, ends), **(fixed or {})})


def protected_ends(places: Sequence[Place], ends: int) -> dict[SiteKey, float]:
    """Return the sites of the first and last layers at sparsity 0.

    Raises:
        PrunescopeError: if `ends` is negative or leaves no layer to prune.
    """
    layers = 1 + max(place.key.layer for place in places)
    most = most_ends(layers)
    if not 0 <= ends <= most:
        raise PrunescopeError(
            f"The number of layers to protect at either end is {ends}: a model of {layers} "
            f"layers allows 0 to {most}, so that there is a layer left to prune."
        )
    return {
        place.key: 0.0
        for place in places
        if place.key.layer < ends or place.key.layer >= layers - ends
    }


def one_ranking(
    places: Sequence[Place],
    sparsity: float,
    scores: ImportanceMap,
    fixed: Mapping[SiteKey, float] | None = None,
) -> dict[SiteKey, float]:
    """Let all units of all free sites compete in one ranking, each at its cost in parameters.

    They are compared by `ImportanceMap.comparable` where the estimator says how (FLAP: z-scores,
    arXiv 2312.11983, section 3.3), else by their scores over the site's mean.

    Raises:
        PrunescopeError: if `sparsity` is not between 0 and 1.
    """
    check_sparsity(sparsity, "the whole model")
    fixed = fixed or {}
    free = [place for place in places if place.key not in fixed]
    by_site = {place.key: scores.compared(place.key) for place in free}
    costs = {place.key: place.size / len(by_site[place.key]) for place in free}
    rest = sparsity * sum(place.size for place in places)
    rest -= sum(place.snap(fixed[place.key]) * place.size for place in places if place.key in fixed)
    share = rest / max(sum(place.size for place in free), 1)
    kept = global_ranking(by_site, costs, min(max(share, 0.0), 1.0)) if free else {}
    shape = {key: 1 - float(stays.double().mean()) for key, stays in kept.items()}
    return shaped(places, sparsity, shape, fixed)


def owl(
    places: Sequence[Place],
    sparsity: float,
    outliers: torch.Tensor,
    spread: float = 0.08,
    fixed: Mapping[SiteKey, float] | None = None,
) -> dict[SiteKey, float]:
    """Let layers with many outliers keep more: outlier-weighed layerwise sparsity.

    Source: OWL (arXiv 2310.05175, section 3.2).

    Args:
        outliers: fp32 [layers], the share of a layer's weight scores far above their mean; see
            `pruning_core.planning.outliers`.
        spread: lambda: no layer is further than this from the overall sparsity.

    Raises:
        PrunescopeError: if `sparsity` is not between 0 and 1.
    """
    kept = owl_kept(outliers, sparsity, spread)
    return shaped(places, sparsity, {p.key: 1 - float(kept[p.key.layer]) for p in places}, fixed)


def owl_kept(outliers: torch.Tensor, sparsity: float, spread: float) -> torch.Tensor:
    """Return the fraction that each layer keeps, fp32 [layers]; their mean is 1 - sparsity."""
    width = outliers.max() - outliers.min()
    # Layers that are all alike keep the same.
    kept = (outliers - outliers.min()) / (width if width > 0 else 1) * (2 * spread)
    return kept + (1 - sparsity - kept.mean())


def whole_layers(
    places: Sequence[Place],
    sparsity: float,
    scores: ImportanceMap,
    fixed: Mapping[SiteKey, float] | None = None,
) -> dict[SiteKey, float]:
    """Remove whole layers, the least important first, until the overall sparsity is nearest.

    Source: ShortGPT (arXiv 2403.03853). Layers with a fixed site stay as they are.

    Raises:
        PrunescopeError: if the estimator does not score layers, or `sparsity` is not between 0
            and 1.
    """
    check_sparsity(sparsity, "the whole model")
    if scores.layers is None:
        raise PrunescopeError(
            f"The estimator {scores.scoring.estimator!r} does not score layers as a whole: choose "
            "'block-influence' to remove whole layers."
        )
    fixed = fixed or {}
    result = {place.key: place.snap(fixed.get(place.key, 0.0)) for place in places}
    touched = {key.layer for key in fixed}
    target = sparsity * sum(place.size for place in places)
    gone = sum(result[place.key] * place.size for place in places)
    for layer in torch.sort(scores.layers, stable=True).indices.tolist():
        here = [place for place in places if place.key.layer == layer]
        more = sum(place.snap(1.0) * place.size for place in here)
        if layer in touched or not here:
            continue
        if abs(gone + more - target) > abs(gone - target):
            break
        gone += more
        result |= {place.key: place.snap(1.0) for place in here}
    return result


def overall(places: Sequence[Place], sparsity: Mapping[SiteKey, float]) -> float:
    """Return the fraction of all parameters of the places that leaves at these sparsities."""
    removed = sum(sparsity.get(place.key, 0.0) * place.size for place in places)
    return removed / max(sum(place.size for place in places), 1)


def _level(places: Collection[Place], shape: Mapping[SiteKey, float], rest: float) -> float:
    """Return what must be added to a shape so that `rest` parameters leave, as far as they can."""
    size = max(sum(place.size for place in places), 1)
    level = (rest - sum(shape.get(place.key, 0.0) * place.size for place in places)) / size
    if all(0 <= shape.get(place.key, 0.0) + level <= 1 for place in places):
        return level
    low, high = -2.0, 2.0
    for _ in range(60):
        level = (low + high) / 2
        leaving = sum(_share(place, shape, level) * place.size for place in places)
        low, high = (level, high) if leaving < rest else (low, level)
    return level


def _share(place: Place, shape: Mapping[SiteKey, float], level: float) -> float:
    return min(max(shape.get(place.key, 0.0) + level, 0.0), 1.0)


def _snapped(
    places: Collection[Place], shape: Mapping[SiteKey, float], level: float
) -> dict[SiteKey, float]:
    """Snap the shares of some places, carrying each one's rounding over to the next."""
    result: dict[SiteKey, float] = {}
    carry = 0.0
    for place in places:
        share = _share(place, shape, level)
        if place.coarse:
            # Coarse steps: carrying would make equal layers very unequal.
            result[place.key] = place.snap(share)
            continue
        wanted = min(max(share * place.size + carry, 0.0), place.size)
        result[place.key] = place.snap(wanted / place.size)
        carry = wanted - result[place.key] * place.size
    return result
