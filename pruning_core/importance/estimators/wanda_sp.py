"""Wanda-sp: the size of a weight times the size of its input, averaged over the unit's columns.

    A_j = mean_i |W_ij| * sqrt(s_j),   s_j = 1/N sum_windows sum_tokens x_j^2,   mean over units = 1

W is the weight [out, in] of the output projection alone; a query head is the mean of its columns, a
key/value group of its heads.

Source: Wanda (arXiv 2306.11695, section 3) made structured as the baseline of FLAP (arXiv
2312.11983, section 4.1; CASIA-IVA-Lab/FLAP, lib/prune.py). Assumes that weights leave independently
of each other, which is what makes it fall behind once whole units leave.
"""

from __future__ import annotations

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.registry import Estimator, Grain, Needs, Scored, Settings, register
from pruning_core.importance.standard import folded, output_weight, unit_mean
from pruning_core.model.anatomy import Site


def score(evidence: Evidence, _settings: Settings) -> Scored:
    """Return Wanda's score, mean over the columns of every unit and query head."""
    sites = evidence.anatomy.sites
    return Scored(
        {site.key: unit_mean(folded(site, column_scores(evidence, site))) for site in sites}
    )


def column_scores(evidence: Evidence, site: Site) -> torch.Tensor:
    """Return the mean Wanda score of every column of a site's output projection.

    Returns:
        fp32 [in columns], on the CPU.
    """
    sizes = output_weight(evidence, site).float().abs().mean(0).cpu()
    return sizes * evidence.activations.sites[site.key].norms.sqrt()


register(
    Estimator(
        name="wanda-sp",
        title="Wanda-sp",
        grain=Grain.FINE,
        needs=Needs.ACTIVATIONS,
        summary="Weights of the output projection times the norm of their inputs, over the unit.",
        formula="mean_i |w_ij| · ‖x_j‖",
        source="Wanda, arXiv 2306.11695, as the structured baseline of FLAP, arXiv 2312.11983",
        score=score,
    )
)
