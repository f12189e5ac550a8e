"""From one overall sparsity to the sparsity of every site. Pure arithmetic over the anatomy.

A site reaches only certain widths (attention few, an MLP one per channel), so every allocation is
made of reachable sparsities, and the MLPs, whose steps are fine, make up for what attention rounds
away. The parameters removed meet the asked overall sparsity within one channel per free MLP, as far
as locked and protected sites leave room and there are MLPs to prune. Where they do not, every free
site goes to the reachable width nearest to its share, and `overall` says what that amounts to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Site
from pruning_core.recipe import SiteKey, SiteKind, check_sparsity


def uniform(
    anatomy: Anatomy, sparsity: float, fixed: Mapping[SiteKey, float] | None = None
) -> dict[SiteKey, float]:
    """Give every free site the same sparsity so that the model reaches an overall one.

    Args:
        sparsity: fraction of the prunable parameters of the whole model that should leave.
        fixed: sites that keep the sparsity they have (locks, protected ends); the others make up
            for them as far as they can.

    Returns:
        A reachable sparsity for every site.

    Raises:
        PrunescopeError: if `sparsity` is not between 0 and 1.
    """
    check_sparsity(sparsity, "the whole model")
    fixed = fixed or {}
    result = {
        site.key: site.snap(fixed[site.key]).sparsity for site in anatomy.sites if site.key in fixed
    }
    free = [site for site in anatomy.sites if site.key not in fixed]
    removed = sum(result[key] * anatomy.by_key[key].parameters for key in result)
    rest = sparsity * anatomy.prunable_parameters - removed
    for kind in (SiteKind.ATTENTION, SiteKind.MLP):
        sites = [site for site in free if site.key.kind is kind]
        left = [site for site in free if site.key not in result]
        share = rest / max(sum(site.parameters for site in left), 1)
        shares = _snapped(sites, min(max(share, 0.0), 1.0))
        result |= shares
        rest -= sum(shares[site.key] * site.parameters for site in sites)
    return {site.key: result[site.key] for site in anatomy.sites}


def _snapped(sites: Collection[Site], share: float) -> dict[SiteKey, float]:
    """Snap one share at many sites, carrying each site's rounding over to the next."""
    result: dict[SiteKey, float] = {}
    carry = 0.0
    for site in sites:
        if site.key.kind is SiteKind.ATTENTION:
            # Attention steps are coarse: carrying would make equal layers very unequal.
            result[site.key] = site.snap(share).sparsity
            continue
        wanted = min(max(share * site.parameters + carry, 0.0), site.parameters)
        result[site.key] = site.snap(wanted / site.parameters).sparsity
        carry = wanted - result[site.key] * site.parameters
    return result


def protect_ends(
    anatomy: Anatomy, sparsity: float, ends: int, fixed: Mapping[SiteKey, float] | None = None
) -> dict[SiteKey, float]:
    """Keep the first and last layers dense and let those between carry the overall sparsity.

    The ends matter most to what a model computes (LLM-Pruner prunes layers 4 to 29 of 32).

    Args:
        ends: how many layers stay dense at either end; at least one layer must be left between.

    Raises:
        PrunescopeError: if `ends` is negative or leaves no layer to prune, or `sparsity` is not
            between 0 and 1.
    """
    most = (anatomy.layers - 1) // 2
    if not 0 <= ends <= most:
        raise PrunescopeError(
            f"The number of layers to protect at either end is {ends}: a model of {anatomy.layers} "
            f"layers allows 0 to {most}, so that there is a layer left to prune."
        )
    protected = {
        site.key: 0.0
        for site in anatomy.sites
        if site.key.layer < ends or site.key.layer >= anatomy.layers - ends
    }
    return uniform(anatomy, sparsity, {**protected, **(fixed or {})})


def overall(anatomy: Anatomy, sparsity: Mapping[SiteKey, float]) -> float:
    """Return the fraction of the prunable parameters that leaves at these reachable sparsities."""
    removed = sum(value * anatomy.by_key[key].parameters for key, value in sparsity.items())
    return removed / max(anatomy.prunable_parameters, 1)
