"""Importance maps for tests: random scores of the right shapes."""

from __future__ import annotations

import torch

from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.model.anatomy import Anatomy, Part
from pruning_core.recipe import Scoring, SiteKind


def random_map(anatomy: Anatomy, seed: int = 0, fingerprint: str = "abc") -> ImportanceMap:
    """Return a map with a random score for every unit and head."""
    draw = torch.Generator().manual_seed(seed)
    sites = {
        site.key: SiteScores(
            torch.rand(site.units, generator=draw),
            torch.rand(site.counts[Part.QUERY_HEAD], generator=draw)
            if site.key.kind is SiteKind.ATTENTION
            else None,
        )
        for site in anatomy.sites
    }
    return ImportanceMap(fingerprint, Scoring("random"), sites)
