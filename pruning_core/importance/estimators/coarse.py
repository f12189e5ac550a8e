"""Coarse-grained Taylor importance: the unit as a whole.

    C = mean_n |s_n - s_n^2/2|,   s_n = sum_k w_k * dL_n/dw_k,   mean over the units = 1

Source: the coarse-grained estimate of HyWIA (arXiv 2403.10799), reconstructed; LLM-Pruner's vector
score (arXiv 2305.11627, section 3.2) stands between it and the fine one. Sees that weights of a
unit cancel each other; with few samples it is noisy, since the sign of one sample decides.
"""

from __future__ import annotations

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.granularity import site_profiles
from pruning_core.importance.map import Tiles
from pruning_core.importance.registry import Estimator, Grain, Needs, Scored, Settings, register


def score(evidence: Evidence, _settings: Settings) -> Scored:
    """Return coarse-grained scores; tiles are scored as groups of their own.

    All weights of a tile share its score evenly, so that the largest of them is their mean.
    """
    taylor = evidence.taylor
    return Scored(
        sites={
            site.key: site_profiles(site, dict(taylor.parts[site.key])).scores("coarse")
            for site in evidence.anatomy.sites
        },
        tiles={name: Tiles(t.coarse, t.coarse, t.shape) for name, t in taylor.tiles.items()},
    )


register(
    Estimator(
        name="coarse",
        title="Coarse-grained Taylor",
        grain=Grain.COARSE,
        needs=Needs.GRADIENTS,
        summary="The unit as a whole: sum first, absolute value last.",
        formula="mean_n |s - s²/2|, s = sum_k w·∂L/∂w",
        source="HyWIA, arXiv 2403.10799 (reconstruction)",
        score=score,
    )
)
