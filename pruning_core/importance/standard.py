"""From the columns of a site's output projection to the scores of its units.

A channel of an MLP is one column of ``down_proj``; a query head is a run of columns of ``o_proj``,
and a key/value group the *consecutive* query heads that share it. Heads are means over their
columns and groups means over their heads, so a fold preserves whatever scale the columns have.

Two scales are in use: mean 1 within a site, in which importance maps are kept, and the z-scores by
which FLAP (arXiv 2312.11983, section 3.3) compares the units of different sites.
"""

from __future__ import annotations

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.model.anatomy import Part, Site
from pruning_core.recipe import SiteKind


def output_weight(evidence: Evidence, site: Site) -> torch.Tensor:
    """Return the dense weight of a site's output projection, where it is: [out, in columns]."""
    coupling = site.reads_units
    weight = evidence.weight(coupling)
    # The units lie along its columns; where they are rows, the model keeps it transposed (GPT-2).
    return weight if coupling.axis == 1 else weight.T


def folded(site: Site, columns: torch.Tensor) -> SiteScores:
    """Return the means of a value per column over query heads and key/value groups.

    Args:
        columns: fp32 [in columns of the output projection].
    """
    if site.key.kind is SiteKind.MLP:
        return SiteScores(columns)
    heads = columns.view(site.counts[Part.QUERY_HEAD], -1).mean(-1)
    return SiteScores(heads.view(site.units, site.heads_per_unit).mean(-1), heads)


def unit_mean(scores: SiteScores) -> SiteScores:
    """Return scores with mean 1 over the units of the site, and over its heads, in fp32."""
    heads = None if scores.heads is None else _unit_mean(scores.heads)
    return SiteScores(_unit_mean(scores.units), heads)


def standardised(site: Site, columns: torch.Tensor) -> SiteScores:
    """Return the z-scores of a site's units, as FLAP compares them across sites.

    The columns of the site are brought to mean 0 and sample standard deviation 1, and only then
    folded: a head whose columns differ among themselves stays nearer to 0.

    Args:
        columns: raw scores, fp32 [in columns of the output projection].
    """
    spread = columns.std()
    # Columns that are all alike (a dead layer) rank nothing: every unit is as good as the mean.
    z = (columns - columns.mean()) / spread if spread > 0 else torch.zeros_like(columns)
    return folded(site, z)


def _unit_mean(scores: torch.Tensor) -> torch.Tensor:
    mean = scores.mean()
    # A site of zeros only has no ranking; ones keep it finite.
    return (scores / mean if mean > 0 else torch.ones_like(scores)).float()
