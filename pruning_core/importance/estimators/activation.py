"""Activation norm: how loud a unit is. Looks at text, and at no weights.

    A = sqrt(mean_j s_j),   s_j = 1/N sum_windows sum_tokens x_j^2,   mean over the units = 1

over the columns j of the output projection that are the unit's: one for a channel, those of a head,
those of all heads of a key/value group. The mean in place of the sum changes no ranking, since the
units of a site are equally wide.

Source: the input norm of Wanda (arXiv 2306.11695, section 3) without its weights, a plain baseline.
Assumes that what is loud is important; blind to what the output projection makes of it.
"""

from __future__ import annotations

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.registry import Estimator, Grain, Needs, Scored, Settings, register
from pruning_core.importance.standard import folded, unit_mean
from pruning_core.model.anatomy import Site


def score(evidence: Evidence, _settings: Settings) -> Scored:
    """Return the norm of what every unit and query head hands to the output projection."""
    return Scored({site.key: unit_mean(_norms(evidence, site)) for site in evidence.anatomy.sites})


def _norms(evidence: Evidence, site: Site) -> SiteScores:
    squares = folded(site, evidence.activations.sites[site.key].norms)
    heads = None if squares.heads is None else squares.heads.sqrt()
    return SiteScores(squares.units.sqrt(), heads)


register(
    Estimator(
        name="activation",
        title="Activation norm",
        grain=Grain.BASELINE,
        needs=Needs.ACTIVATIONS,
        summary="How large a unit's activations are; looks at no weights.",
        formula="sqrt(mean_j ‖x_j‖²)",
        source="The input norm of Wanda, arXiv 2306.11695, by itself",
        score=score,
    )
)
