"""Block influence: how far a layer as a whole turns what passes through it.

    BI_l = 1 - mean_t cos(h_l,t, h_l+1,t)      or      d_l = mean_n arccos(cos(h_l,T, h_l+1,T)) / pi

Source: ShortGPT (arXiv 2403.03853, equation 1); angular distance at the last token T of Gromov et
al. (arXiv 2403.17887, section 3.2). Assumes that a layer that turns little is needed little. It
compares layers: inside a site every unit has its layer's score, so that there it ranks nothing.
"""

from __future__ import annotations

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    Settings,
    register,
)
from pruning_core.model.anatomy import Part, Site


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return the influence of every layer, and the same for each of its units and heads."""
    influence = evidence.layer_influence
    layers = influence.angular if settings["measure"] == "angular" else influence.block
    return Scored(
        sites={site.key: _site(site, layers[site.key.layer]) for site in evidence.anatomy.sites},
        layers=layers,
    )


def _site(site: Site, worth: torch.Tensor) -> SiteScores:
    heads = site.counts.get(Part.QUERY_HEAD)
    return SiteScores(worth.repeat(site.units), None if heads is None else worth.repeat(heads))


register(
    Estimator(
        name="block-influence",
        title="Block influence",
        grain=Grain.LAYER,
        needs=Needs.ACTIVATIONS,
        summary="How far a layer turns its input; the same for all units of a layer.",
        formula="1 - mean_t cos(h_l, h_l+1), or arccos(cos)/π at the last token",
        source="ShortGPT, arXiv 2403.03853, equation 1; angular: arXiv 2403.17887, section 3.2",
        score=score,
        parameters=(
            Parameter(
                "measure",
                "block-influence",
                "How a turn is measured: by the cosine of all tokens, or by the angle at the last.",
                choices=("block-influence", "angular"),
            ),
        ),
    )
)
