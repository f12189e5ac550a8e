"""Where importance maps agree, unit by unit: pure functions on scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning_core.importance.map import ImportanceMap, SiteFusion
from pruning_core.recipe import SiteKey


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """Return each unit's rank, 0 for the most important; of equals the lower index comes first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    result = torch.empty_like(order)
    result[order] = torch.arange(len(order))
    return result


def rank_correlation(one: ImportanceMap, other: ImportanceMap, site: SiteKey) -> float:
    """Return Spearman's rank correlation of two maps at a site, -1 to 1.

    Attention has few groups and is compared by its query heads. A single unit correlates fully.
    """
    first, second = (ranks(scores.sites[site].ranked).double() for scores in (one, other))
    if len(first) < 2:
        return 1.0
    return float(torch.corrcoef(torch.stack((first, second)))[0, 1])


@dataclass(frozen=True)
class Overruled:
    """Units on which a fusion contradicts one of its granularities, at one number of kept units.

    Attributes:
        kept_against_fine, kept_against_coarse: units the fusion keeps though that granularity alone
            would remove them, the most important first.
    """

    kept_against_fine: tuple[int, ...]
    kept_against_coarse: tuple[int, ...]


def overruled(fusion: SiteFusion, fused: torch.Tensor, kept: int) -> Overruled:
    """Return where a fusion's choice of `kept` units differs from either granularity's."""
    order = torch.sort(fused, descending=True, stable=True).indices[:kept].tolist()
    against = []
    for alone in (fusion.fine.units, fusion.coarse.units):
        rank = ranks(alone)
        against.append(tuple(unit for unit in order if rank[unit] >= kept))
    return Overruled(*against)
