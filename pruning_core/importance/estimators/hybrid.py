"""HyWIA-style hybrid importance: attention learns, unit by unit, which granularity to believe.

    I = alpha_f F + alpha_c C,   alpha learned end to end (see `pruning_core.importance.fusion`)

Source: HyWIA (arXiv 2403.10799, AAAI 2025), a reconstruction. Assumes that what is important at the
sparsities it was trained for is so at those it is used at; the spread keeps that range wide.
"""

from __future__ import annotations

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.fused import PARAMETERS, learned
from pruning_core.importance.fusion import learn_fusion
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Scored,
    Settings,
    register,
)


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return fused scores and the record of how the fusion came to them."""
    return learned(evidence, settings, learn_fusion)


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
        parameters=PARAMETERS,
    )
)
