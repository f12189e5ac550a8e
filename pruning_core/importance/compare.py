"""Where importance maps agree, unit by unit: pure functions on scores.

Attention has few groups, so maps are compared there by its query heads (`SiteScores.ranked`). Which
units leave at a width is decided by planning, further down the walk: here the removed ones are
given, as int64 indices of channels or of query heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

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
    """Return Spearman's rank correlation of two maps at a site, -1 to 1; see `correlations`."""
    return float(correlations((one, other), site)[0, 1])


def correlations(maps: Sequence[ImportanceMap], site: SiteKey) -> torch.Tensor:
    """Return Spearman's rank correlation of every two maps at a site.

    Returns:
        fp64 [maps, maps], symmetric, -1 to 1. A single unit correlates fully.
    """
    placed = torch.stack([ranks(scores.sites[site].ranked) for scores in maps]).double()
    count = len(maps)
    if placed.shape[1] < 2:
        return torch.ones(count, count, dtype=torch.float64)
    return torch.corrcoef(placed).view(count, count)


def overlap(removed: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return how far selections coincide: of what either of two removes, the share that both do.

    Two random choices of a share ``s`` overlap by about ``s / (2 - s)``, so a tenth at a sparsity
    of 0.2.

    Args:
        removed: what each estimator removes at one site, int64 indices.

    Returns:
        Jaccard's index of every two, fp64 [selections, selections], symmetric, 0 to 1. Two that
        remove nothing coincide.
    """
    sets = [set(indices.tolist()) for indices in removed]
    values = [[len(a & b) / len(a | b) if a | b else 1.0 for b in sets] for a in sets]
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Standing:
    """Where a unit stands under one estimator, at one number of kept units.

    Attributes:
        estimator: its name.
        rank: the unit's rank, 0 for the most important.
        units: units that are ranked.
        kept: how many of them stay.
        ratio: the unit's score in multiples of the score at the cut, which is that of the last unit
            that stays: 1 or more for a unit that stays. None where there is no such multiple: no
            unit stays, or the last that does has no score above 0.
    """

    estimator: str
    rank: int
    units: int
    kept: int
    ratio: float | None

    @property
    def goes(self) -> bool:
        """Whether the unit leaves."""
        return self.rank >= self.kept

    @property
    def margin(self) -> int:
        """Ranks to the other side of the cut: to fall, above 0, or to climb, below 0."""
        return self.kept - self.rank - self.goes


def standings(
    maps: Sequence[ImportanceMap], site: SiteKey, unit: int, kept: int
) -> tuple[Standing, ...]:
    """Return why a unit would go: its standing under every map, in their order.

    Args:
        unit: an MLP channel, or a key/value head as a whole.
        kept: how many units stay at the site, 0 to all.
    """
    return tuple(
        _standing(scores.scoring.estimator, scores.sites[site].units, unit, kept) for scores in maps
    )


def _standing(estimator: str, scores: torch.Tensor, unit: int, kept: int) -> Standing:
    place = ranks(scores)
    cut = float(scores[place == kept - 1]) if kept else 0.0
    ratio = float(scores[unit]) / cut if cut > 0 else None
    return Standing(estimator, int(place[unit]), len(scores), kept, ratio)


@dataclass(frozen=True)
class Spread:
    """How far one estimator agrees with itself at a site when other windows calibrate it.

    Attributes:
        correlation: mean of Spearman's rank correlation over all pairs of maps, -1 to 1.
        same_fate: the share of units (query heads in attention) that all maps remove or all maps
            keep, 0 to 1. At a low sparsity most units are kept by any.
    """

    correlation: float
    same_fate: float


def spread(
    maps: Sequence[ImportanceMap], removed: Sequence[Mapping[SiteKey, torch.Tensor]]
) -> dict[SiteKey, Spread]:
    """Return how much of an estimator's word depends on the windows it saw.

    Args:
        maps: one estimator's, on at least two calibrations of one model.
        removed: what each of them removes at some widths, int64 indices by site.

    Returns:
        The spread at every site.
    """
    pairs = list(combinations(range(len(maps)), 2))
    result = {}
    for site, first in maps[0].sites.items():
        matrix = correlations(maps, site)
        votes = torch.zeros(len(first.ranked))
        for gone in removed:
            votes[gone[site]] += 1
        same = (votes == 0) | (votes == len(removed))
        result[site] = Spread(
            correlation=sum(float(matrix[pair]) for pair in pairs) / len(pairs),
            same_fate=float(same.double().mean()),
        )
    return result


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
