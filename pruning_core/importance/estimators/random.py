"""Random: what a criterion must beat.

    R ~ U(0, 1), drawn from the seed

Source: the random baseline of LLM-Pruner (arXiv 2305.11627, section 4.1).
"""

from __future__ import annotations

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.registry import Estimator, Grain, Needs, Scored, Settings, register
from pruning_core.model.anatomy import Part


def score(evidence: Evidence, _settings: Settings) -> Scored:
    """Return one draw per unit and query head; the same seed gives the same draws."""
    draw = torch.Generator().manual_seed(evidence.seed)
    sites = {}
    for site in evidence.anatomy.sites:
        heads = site.counts.get(Part.QUERY_HEAD)
        sites[site.key] = SiteScores(
            torch.rand(site.units, generator=draw),
            None if heads is None else torch.rand(heads, generator=draw),
        )
    return Scored(sites)


register(
    Estimator(
        name="random",
        title="Random",
        grain=Grain.BASELINE,
        needs=Needs.NOTHING,
        summary="A draw per unit from the calibration seed: what a criterion must beat.",
        formula="U(0, 1)",
        source="LLM-Pruner, arXiv 2305.11627, section 4.1 (random baseline)",
        score=score,
    )
)
