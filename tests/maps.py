"""Importance maps for tests, and plans made of them: random scores of the right shapes."""

from __future__ import annotations

import random

import torch

from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.model.anatomy import Anatomy, Part
from pruning_core.planning.plan import UnitPlan, make_plan
from pruning_core.recipe import Recipe, Scoring, SiteKind
from pruning_core.surgery.workbench import Workbench


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


def random_plan(bench: Workbench, seed: int) -> UnitPlan:
    """Return a plan of random widths, some sites dense and some gone altogether."""
    draw = random.Random(seed)
    sparsity = {
        site.key: draw.choice([0.0, 1.0, draw.random(), draw.random()])
        for site in bench.anatomy.sites
    }
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    return make_plan(recipe, random_map(bench.anatomy, seed), bench.anatomy)
