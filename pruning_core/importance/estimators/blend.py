"""Both granularities, blended by a rule instead of by what was learned: for the impatient.

    I = alpha F + (1 - alpha) C,   F and C each with mean 1 over the units of a site

    average     alpha = 1/2
    constant    alpha = share, the same everywhere
    snr         alpha = softmax over (F, C) of mean / std over the samples of the normalised profile
    coherence   alpha = 1 - mean C / mean F over the samples of the raw profiles, within 0 and 1

Units, and query heads inside their group, each have an alpha of their own under the last two. A
granularity that says the same of a unit in every sample is believed by ``snr``; one sample has no
std, so that the blend is even. ``coherence`` believes the fine score of units whose weights pull
against each other, since what cancels in these samples need not do so in others.

Source: the parameter-free modes of the HyWIA-style reconstruction (arXiv 2403.10799); not in the
paper as far as is known. Assumes that which granularity is right can be told from the profiles
alone, which `hybrid` learns from the divergence instead.

Rejected: self-attention without weights, the z-scored profiles themselves for queries and keys.
Two tokens of equal norm attend to each other as to themselves, so that alpha comes out as 0.500 for
every unit (measured: 0.49995 to 0.5000): ``average`` at a higher price.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.fused import all_profiles, fused
from pruning_core.importance.granularity import Profiles, SiteProfiles
from pruning_core.importance.map import Fusion, SiteFusion, SiteScores
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    Settings,
    register,
)

LEAST_SPREAD = 1e-6
"""A std below this counts as this: the profiles have mean 1 and no more than fp32 can tell."""

Rule = Callable[[Profiles], torch.Tensor]
"""From raw profiles to the share of the fine-grained score, [groups]."""


def constant(share: float) -> Rule:
    """Return the rule that gives every group the same share."""
    return lambda profiles: torch.full_like(profiles.fine[0], share)


def snr(profiles: Profiles) -> torch.Tensor:
    """Return shares by how steady either granularity is over the samples."""
    if len(profiles.fine) < 2:
        return constant(0.5)(profiles)
    normal = profiles.normalised()
    ratios = [p.mean(0) / p.std(0).clamp_min(LEAST_SPREAD) for p in (normal.fine, normal.coarse)]
    return torch.softmax(torch.stack(ratios), dim=0)[0]


def coherence(profiles: Profiles) -> torch.Tensor:
    """Return shares by how much of a group's weight cancels inside it."""
    fine, coarse = profiles.fine.mean(0), profiles.coarse.mean(0)
    # The quadratic term may lift the coarse score above the fine one; without gradients both are 0.
    return torch.where(fine > 0, 1 - coarse / fine, 0.5).clamp(0, 1)


def blended(profiles: SiteProfiles, rule: Rule) -> SiteFusion:
    """Return a site's two granularities and the shares that a rule gives them."""
    heads = None if profiles.heads is None else rule(profiles.heads)
    shares = SiteScores(rule(profiles.units), heads)
    return SiteFusion(profiles.scores("fine"), profiles.scores("coarse"), shares)


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return blended scores and the record of which granularity counted."""
    rules: dict[str, Rule] = {
        "average": constant(0.5),
        "constant": constant(float(settings["share"])),
        "snr": snr,
        "coherence": coherence,
    }
    rule = rules[str(settings["mode"])]
    sites = {key: blended(own, rule) for key, (_, own) in all_profiles(evidence).items()}
    return fused(evidence, Fusion((), sites))


register(
    Estimator(
        name="blend",
        title="Blend of both granularities (no training)",
        grain=Grain.HYBRID,
        needs=Needs.GRADIENTS,
        summary="Both granularities, mixed by a rule that needs no training.",
        formula="α·F + (1 − α)·C, α fixed or by mean/std or 1 − C/F",
        source="HyWIA, arXiv 2403.10799, AAAI 2025 (reconstruction, parameter-free)",
        score=score,
        parameters=(
            Parameter(
                "mode",
                "average",
                "What the fine-grained score's share is: a half, the share below, by how steady "
                "either is over the samples (snr), or by how much cancels in a unit (coherence).",
                choices=("average", "constant", "snr", "coherence"),
            ),
            Parameter("share", 0.5, "The fine-grained share in mode constant.", 0.0, 1.0),
        ),
    )
)
