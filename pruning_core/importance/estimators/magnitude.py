"""Magnitude: the norm of a unit's weights, or the size of single weights. No text, no gradients.

    units      M = (sum_k |w_k|^p)^(1/p),   mean over the units = 1
    weights    |w|, the whole matrix against one threshold; for n:m runs of m inputs

Source: the L1 and L2 baselines of LLM-Pruner (arXiv 2305.11627, section 4.1); the magnitude
baseline of Wanda (arXiv 2306.11695, section 4). Assumes that what is small is unimportant; on
language models, whose activations have outliers, that fails early.
"""

from __future__ import annotations

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.registry import (
    THRESHOLD,
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    Settings,
    register,
)
from pruning_core.importance.standard import unit_mean
from pruning_core.importance.weights import (
    Cut,
    Matrix,
    Thinned,
    WeightMethod,
    lowest_of_matrix,
    thinned,
)
from pruning_core.model.anatomy import Part, Site
from pruning_core.recipe import SiteKind


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return norms over all weights of every unit and query head."""
    power = {"l1": 1, "l2": 2}[str(settings["norm"])]
    return Scored(sites={site.key: _site(evidence, site, power) for site in evidence.anatomy.sites})


def _site(evidence: Evidence, site: Site, power: int) -> SiteScores:
    sums = {part: torch.zeros(count) for part, count in site.counts.items()}
    for coupling in site.matrices:
        weight = evidence.weight(coupling).float()
        slices = weight.abs().pow(power).sum(1 - coupling.axis).cpu()
        start = 0
        for segment in coupling.segments:
            run = slices[start : start + segment.size]
            sums[segment.part] += run.view(segment.count, segment.width).sum(-1)
            start += segment.size
    if site.key.kind is SiteKind.MLP:
        return unit_mean(SiteScores(sums[Part.CHANNEL].pow(1 / power)))
    heads = sums[Part.QUERY_HEAD]
    groups = sums[Part.KV_HEAD] + heads.view(site.units, site.heads_per_unit).sum(-1)
    return unit_mean(SiteScores(groups.pow(1 / power), heads.pow(1 / power)))


def thin(matrix: Matrix, cut: Cut, settings: Settings) -> Thinned:
    """Return the matrix without its smallest weights."""
    inclusive = settings["threshold"] == "inclusive"
    return thinned(matrix.weight, lowest_of_matrix(matrix.weight.abs(), cut, inclusive=inclusive))


register(
    Estimator(
        name="magnitude",
        title="Magnitude",
        grain=Grain.BASELINE,
        needs=Needs.WEIGHTS,
        summary="The norm of a unit's weights, or the size of a weight; looks at no text.",
        formula="(sum_k |w|^p)^(1/p)",
        source="LLM-Pruner, arXiv 2305.11627, section 4.1 (L1 and L2 baselines)",
        score=score,
        weights=WeightMethod(thin),
        parameters=(
            Parameter("norm", "l2", "Which norm of a unit's weights.", choices=("l1", "l2")),
            THRESHOLD,
        ),
    )
)
