"""HyWIA-style hybrid importance: attention learns, unit by unit, which granularity to believe.

    I = alpha_f F + alpha_c C,   alpha learned end to end (see `pruning_core.importance.fusion`)

Source: HyWIA (arXiv 2403.10799, AAAI 2025), a reconstruction. Assumes that what is important at the
sparsities it was trained for is so at those it is used at; the spread keeps that range wide.
"""

from __future__ import annotations

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.fusion import Training, fused_scores, learn_fusion
from pruning_core.importance.granularity import site_profiles
from pruning_core.importance.map import Tiles
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    Settings,
    register,
)


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return fused scores and the record of how the fusion came to them."""
    taylor = evidence.taylor
    profiles = {
        site.key: (site, site_profiles(site, dict(taylor.parts[site.key])))
        for site in evidence.anatomy.sites
    }
    training = Training(
        sparsity=float(settings["sparsity"]),
        spread=float(settings["spread"]),
        steps=int(settings["steps"]),
        batch=int(settings["batch"]),
        seed=evidence.seed,
    )
    divergence = evidence.divergence(int(settings["windows"]))
    fusion = learn_fusion(profiles, divergence, training, evidence.tick)
    return Scored(
        sites={key: fused_scores(site) for key, site in fusion.sites.items()},
        tiles={name: Tiles(t.fine, t.peak, t.shape) for name, t in taylor.tiles.items()},
        fusion=fusion,
    )


register(
    Estimator(
        name="hybrid",
        title="HyWIA-style hybrid",
        grain=Grain.HYBRID,
        needs=Needs.TRAINING,
        summary="Attention learns, unit by unit, which granularity to believe.",
        formula="α_f·F + α_c·C, α learned end to end on KL(dense‖masked)",
        source="HyWIA, arXiv 2403.10799, AAAI 2025 (reconstruction)",
        score=score,
        parameters=(
            Parameter("sparsity", 0.3, "The sparsity that masks are trained around.", 0.05, 0.9),
            Parameter("spread", 0.2, "Half the range of sparsities seen in training.", 0.0, 0.5),
            Parameter("steps", 96, "Optimiser steps.", 1, 10_000),
            Parameter("batch", 4, "Calibration windows in a step.", 1, 256),
            Parameter("windows", 96, "Calibration windows that training cycles through.", 1, 4096),
        ),
    )
)
