"""SAAP's adaptive fusion: the two granularities weighed by how uncertain either is.

    I = C / (2 s_c^2) + F / (2 s_f^2),   s_c and s_f learned, one pair per layer and kind of site

F and C are the profiles of `fine` and `coarse`, each normalised to mean 1 over the units of a site.
What ranks units of one site is I but for a factor, alpha_f F + alpha_c C with

    alpha_f = (1 / s_f^2) / (1 / s_f^2 + 1 / s_c^2),   alpha_c = 1 - alpha_f

so that all units of a site, and its query heads, share one blend. Learned are the log-variances, on
straight-through masks as in `fusion`, with the loss

    KL(dense || masked) + mean over the sites of (mean I + log(s_c s_f))

``log(s_c s_f)`` alone could not do: a mask depends on the ratio of the two variances only, and the
logarithm would drive both to zero. Together with the mean of I, which is what it belongs to in a
Gaussian likelihood, it has its least value at s_c = s_f = 1, an even blend, and holds the variances
near it unless the divergence says otherwise.

Source: SAAP (arXiv 2412.15127), a reconstruction. The formulas follow the general literature on
learning several tasks by homoscedastic uncertainty (Kendall et al., arXiv 1705.07115) and were not
verified in the SAAP paper; its second stage, which ranks units by their stability, is left out.
Assumes that one granularity is the better one throughout a site.
"""

from __future__ import annotations

from typing import Any

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.fused import PARAMETERS, learned
from pruning_core.importance.fusion import Divergence, Sites, Training, train_fusion
from pruning_core.importance.map import Fusion
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Scored,
    Settings,
    register,
)
from pruning_core.model.anatomy import Part
from pruning_core.progress import Tick
from pruning_core.recipe import SiteKey

RATE = 0.05
"""Of Adam: over the default number of steps either log-variance may go some five up or down, which
is as good as all or nothing, and no single batch decides."""


class Uncertainty:
    """The shares that two variances per site make: see `pruning_core.importance.fusion.Shares`."""

    def __init__(self, sites: Sites) -> None:
        """Begin with equal variances: an even blend."""
        self._sites = {key: site for key, (site, _) in sites.items()}
        # log s_f^2, log s_c^2
        self._logs = {key: torch.zeros(2, requires_grad=True) for key in sites}

    def groups(self) -> list[dict[str, Any]]:
        """Return the log-variances and their rate."""
        return [{"params": list(self._logs.values()), "lr": RATE}]

    def units(self, key: SiteKey) -> torch.Tensor:
        """Return alpha_f once for every unit, [units]."""
        return self._share(key).repeat(self._sites[key].units)

    def heads(self, key: SiteKey) -> torch.Tensor:
        """Return alpha_f once for every query head, [query heads]."""
        return self._share(key).repeat(self._sites[key].counts[Part.QUERY_HEAD])

    def penalty(self) -> torch.Tensor:
        """Return the mean over the sites of ``mean I + log(s_c s_f)``."""
        logs = torch.stack(list(self._logs.values()))
        # F and C have mean 1, so that the mean of I is that of the two weights alone.
        return 0.5 * (logs.neg().exp() + logs).sum(1).mean()

    def _share(self, key: SiteKey) -> torch.Tensor:
        return torch.softmax(-self._logs[key], dim=0)[0]


def learn_variances(sites: Sites, divergence: Divergence, training: Training, tick: Tick) -> Fusion:
    """Train the variances and return the shares they came to; arguments as for `train_fusion`.

    Raises:
        Cancelled: by `tick`.
    """
    return train_fusion(Uncertainty(sites), sites, divergence, training, tick)


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return fused scores and the record of how the fusion came to them."""
    return learned(evidence, settings, learn_variances)


register(
    Estimator(
        name="saap",
        title="Homoscedastic fusion (SAAP)",
        grain=Grain.HYBRID,
        needs=Needs.TRAINING,
        summary="Learns, site by site, which granularity is the less uncertain one.",
        formula="C/(2·s_c²) + F/(2·s_f²), s learned on KL(dense‖masked) + mean I + log(s_c·s_f)",
        source="SAAP, arXiv 2412.15127 (reconstruction after Kendall et al., arXiv 1705.07115)",
        score=score,
        parameters=PARAMETERS,
    )
)
