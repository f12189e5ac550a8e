"""The two granularities of HyWIA, made from Taylor statistics: pure functions on tensors.

For sample n and a group of weights with ``e_k = w_k * dL_n/dw_k`` and ``s = sum_k e_k``:

    fine    F[n] = sum_k |e_k - e_k^2/2|     weight by weight, diagonal Fisher
    coarse  C[n] = |s - s^2/2|               the group as a whole, rank-one Fisher

``- e^2/2`` is the second-order term in the direction of removal, with the squared gradient of the
sample in place of the Hessian. Absolute values are taken per sample and only then averaged.

Both are a reconstruction: the paper (HyWIA, AAAI 2025) has no public code, and its equations were
not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pruning_core.calibration.taylor import PartSums
from pruning_core.importance.map import SiteScores
from pruning_core.model.anatomy import Part, Site
from pruning_core.recipe import SiteKind


@dataclass(frozen=True)
class Profiles:
    """Both granularities of one set of groups, per sample: fp32 [samples, groups]."""

    fine: torch.Tensor
    coarse: torch.Tensor

    def normalised(self) -> Profiles:
        """Return both with mean 1 over the groups of every sample.

        Without it a sample with a high loss outweighs the others, and the fine score, a sum of
        absolute values, outweighs the coarse one by about the root of the number of weights.
        """
        return Profiles(_unit_mean(self.fine), _unit_mean(self.coarse))


@dataclass(frozen=True)
class SiteProfiles:
    """Profiles of a site's units and, in attention, of its query heads."""

    units: Profiles
    heads: Profiles | None

    def scores(self, grain: str) -> SiteScores:
        """Return the normalised profiles of one grain, ``fine`` or ``coarse``, sample mean."""
        heads = getattr(self.heads.normalised(), grain).mean(0) if self.heads else None
        return SiteScores(getattr(self.units.normalised(), grain).mean(0), heads)


def site_profiles(site: Site, sums: dict[Part, PartSums]) -> SiteProfiles:
    """Return both granularities for the units of a site.

    A key/value group's weights are its own key and value rows and the query rows and output columns
    of the *consecutive* query heads that share it.
    """
    if site.key.kind is SiteKind.MLP:
        return SiteProfiles(_profiles(sums[Part.CHANNEL]), None)
    heads, groups = sums[Part.QUERY_HEAD], sums[Part.KV_HEAD]
    shape = (-1, site.units, site.heads_per_unit)
    whole = PartSums(
        signed=groups.signed + heads.signed.view(shape).sum(-1),
        fine=groups.fine + heads.fine.view(shape).sum(-1),
    )
    return SiteProfiles(_profiles(whole), _profiles(heads))


def _profiles(sums: PartSums) -> Profiles:
    return Profiles(sums.fine, (sums.signed - 0.5 * sums.signed.square()).abs())


def _unit_mean(profile: torch.Tensor) -> torch.Tensor:
    # A site whose gradients are all zero (a dead layer) has no ranking; ones keep it finite.
    mean = profile.mean(1, keepdim=True)
    return torch.where(mean > 0, profile / mean.clamp_min(1e-38), torch.ones_like(profile))
