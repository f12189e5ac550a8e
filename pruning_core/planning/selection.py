"""From scores to what stays: pure, and the same for every estimator."""

from __future__ import annotations

import torch

from pruning_core.importance.map import SiteScores
from pruning_core.model.anatomy import Part, Site, Width
from pruning_core.recipe import SiteKind


def select(site: Site, scores: SiteScores, width: Width) -> dict[Part, torch.Tensor]:
    """Return the indices that stay at a site of a given width, ascending, as int64 tensors.

    The units with the highest importance stay; of equals the lower index does. In attention the
    best `width.heads` query heads of every kept group stay with it.
    """
    units = _best(scores.units, width.units)
    if site.key.kind is SiteKind.MLP:
        return {Part.CHANNEL: units}
    if not width.units:
        return {Part.KV_HEAD: units, Part.QUERY_HEAD: units}
    assert scores.heads is not None, "attention scores rank heads too"
    by_group = scores.heads.view(site.units, site.heads_per_unit)
    heads = [unit * site.heads_per_unit + _best(by_group[unit], width.heads) for unit in units]
    return {Part.KV_HEAD: units, Part.QUERY_HEAD: torch.cat(heads)}


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values
