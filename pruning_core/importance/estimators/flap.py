"""FLAP: how much a column's input fluctuates about its mean, weighted by what is made of it.

With ``f_j`` the fluctuation of column j of the output projection's input, ``s_j`` its squared norm
and W the projection's weight [out, in]:

    IFV   f_j                            input feature variance
    WIFV  f_j * sum_i W_ij^2             the same, weighted
    WIFN  mean_i |W_ij| * sqrt(s_j)      the norm in place of the variance, which is Wanda's score

In attention the metric is squared once more, then averaged over a head's columns and over the heads
of a key/value group; in an MLP it is taken as it is. The paper does not say so, its code does. It
is no mere change of scale: a mean of squares favours heads with one loud column. Finally the mean
over the units of a site is made 1. To compare sites, FLAP takes z-scores over a site's columns.

Source: Fluctuation-based Adaptive Structured Pruning (arXiv 2312.11983, section 3.2) and its public
code (CASIA-IVA-Lab/FLAP, lib/prune.py). What does not fluctuate can leave and be replaced by a
bias, which is the repair `bias`. Assumes that columns fluctuate independently of each other.
"""

from __future__ import annotations

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.estimators import wanda_sp
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    Settings,
    register,
)
from pruning_core.importance.standard import folded, output_weight, standardised, unit_mean
from pruning_core.model.anatomy import Site
from pruning_core.recipe import SiteKind


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return the metric of every unit and query head.

    Raises:
        PrunescopeError: there is but one window, and the authors' code does not count the first.
    """
    columns = {s: column_scores(evidence, s, settings) for s in evidence.anatomy.sites}
    return Scored(
        sites={s.key: unit_mean(folded(s, values)) for s, values in columns.items()},
        comparable={s.key: standardised(s, values) for s, values in columns.items()},
    )


def column_scores(evidence: Evidence, site: Site, settings: Settings) -> torch.Tensor:
    """Return the metric of every column of a site's output projection, in attention squared.

    Returns:
        fp32 [in columns], on the CPU.

    Raises:
        PrunescopeError: as `score`.
    """
    metric = _metric(evidence, site, settings)
    return metric.square() if site.key.kind is SiteKind.ATTENTION else metric


def _metric(evidence: Evidence, site: Site, settings: Settings) -> torch.Tensor:
    if settings["metric"] == "wifn":
        return wanda_sp.column_scores(evidence, site)
    fluctuation = _fluctuation(evidence, site, settings)
    if settings["metric"] == "ifv":
        return fluctuation
    return fluctuation * output_weight(evidence, site).float().square().sum(0).cpu()


def _fluctuation(evidence: Evidence, site: Site, settings: Settings) -> torch.Tensor:
    seen = evidence.activations
    if settings["fluctuation"] == "paper":
        return seen.sites[site.key].fluctuation
    if seen.windows < 2:
        raise PrunescopeError(
            "There is one calibration window, and FLAP with fluctuation='code' does not count the "
            "first: take at least 2 windows, or fluctuation='paper'."
        )
    return seen.sites[site.key].published


register(
    Estimator(
        name="flap",
        title="FLAP",
        grain=Grain.COARSE,
        needs=Needs.ACTIVATIONS,
        summary="How much a unit's output fluctuates about its mean, which a bias can replace.",
        formula="f_j · sum_i w_ij²,  f = variance of the output projection's input",
        source="FLAP, arXiv 2312.11983, section 3.2, and the authors' code",
        score=score,
        parameters=(
            Parameter(
                "metric",
                "wifv",
                "Variance of the input (ifv), the same weighted (wifv), or weighted norm (wifn).",
                choices=("ifv", "wifv", "wifn"),
            ),
            Parameter(
                "fluctuation",
                "paper",
                "Variance about the mean of all windows, as in the paper, or about the mean so far "
                "and without the first window, as in the authors' code.",
                choices=("paper", "code"),
            ),
        ),
    )
)
