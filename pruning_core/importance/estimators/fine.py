"""Fine-grained Taylor importance: every weight by itself, summed over the unit.

    F = mean_n sum_k |e_nk - e_nk^2/2|,   e_nk = w_k * dL_n/dw_k,   mean over the units = 1

Source: the fine-grained estimate of HyWIA (arXiv 2403.10799), reconstructed; close to LLM-Pruner's
mixed element score (arXiv 2305.11627, section 3.2), with the absolute value taken per sample.
Assumes that weights leave independently of each other; blind to cancellation inside a unit.
"""

from __future__ import annotations

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.granularity import site_profiles
from pruning_core.importance.map import Tiles
from pruning_core.importance.registry import Estimator, Grain, Needs, Scored, Settings, register


def score(evidence: Evidence, _settings: Settings) -> Scored:
    """Return fine-grained scores, mean 1 over the units of each site and over its heads."""
    taylor = evidence.taylor
    return Scored(
        sites={
            site.key: site_profiles(site, dict(taylor.parts[site.key])).scores("fine")
            for site in evidence.anatomy.sites
        },
        tiles={name: Tiles(t.fine, t.peak, t.shape) for name, t in taylor.tiles.items()},
    )


register(
    Estimator(
        name="fine",
        title="Fine-grained Taylor",
        grain=Grain.FINE,
        needs=Needs.GRADIENTS,
        summary="Every weight by itself, with diagonal Fisher, summed over the unit.",
        formula="mean_n sum_k |e - e²/2|, e = w·∂L/∂w",
        source="HyWIA, arXiv 2403.10799 (reconstruction)",
        score=score,
    )
)
