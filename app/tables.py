"""Tables for the pages: core objects in, data frames out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import pandas as pd

from pruning_core.recipe import SiteKey, SiteKind

if TYPE_CHECKING:
    from app.results import Measured
    from pruning_core.importance.compare import Standing
    from pruning_core.importance.map import SiteFusion, SiteScores
    from pruning_core.model.anatomy import Anatomy, Site
    from pruning_core.planning.plan import SitePlan


def anatomy_table(anatomy: Anatomy) -> pd.DataFrame:
    """Return one row per layer: parts and parameters of its sites, and what attention reaches."""
    rows = []
    for layer in range(anatomy.layers):
        attention = anatomy.by_key.get(SiteKey(layer, SiteKind.ATTENTION))
        mlp = anatomy.by_key.get(SiteKey(layer, SiteKind.MLP))
        rows.append(
            {
                "layer": layer,
                "groups": attention.units if attention else None,
                "heads": attention.units * attention.heads_per_unit if attention else None,
                "attention": attention.parameters if attention else None,
                "attention reaches": _ladder_words(attention) if attention else "not prunable",
                "channels": mlp.units if mlp else None,
                "MLP": mlp.parameters if mlp else None,
            }
        )
    return pd.DataFrame(rows)


def _ladder_words(site: Site) -> str:
    """Return the sparsities that attention can have: ``0, 8, 25, … 100 %``."""
    return ", ".join(f"{100 * width.sparsity:.0f}" for width in site.ladder) + " %"


def overruled_table(fusion: SiteFusion, fused: SiteScores, units: Sequence[int]) -> pd.DataFrame:
    """Return how either granularity and the fusion rank some units, 0 being the best."""
    from pruning_core.importance.compare import ranks

    fine, coarse, both = (ranks(scores.units) for scores in (fusion.fine, fusion.coarse, fused))
    return pd.DataFrame(
        {
            "unit": list(units),
            "fused rank": [int(both[u]) for u in units],
            "fine rank": [int(fine[u]) for u in units],
            "coarse rank": [int(coarse[u]) for u in units],
            "fine has": [float(fusion.attention.units[u]) for u in units],
        }
    )


def width_words(plan: SitePlan) -> str:
    """Return what is left of a site: ``6/9 heads``, ``1229/1536 channels``."""
    site, width = plan.site, plan.width
    if site.key.kind is SiteKind.MLP:
        return f"{width.units}/{site.units} channels"
    if not width.units:
        return "nothing left"
    return f"{width.units * width.heads}/{site.units * site.heads_per_unit} heads"


def sparsity_table(
    shares: Mapping[SiteKey, float],
    locks: Collection[SiteKey],
    plans: Mapping[SiteKey, SitePlan],
) -> pd.DataFrame:
    """Return one row per layer: what its sites lose, in percent, what they keep, and their locks.

    Args:
        shares: sparsities, 0 to 1; a site that is not named cannot be pruned.
        plans: of whole units; empty where single weights leave.
    """
    rows = []
    for layer in sorted({key.layer for key in shares}):
        row: dict[str, object] = {"layer": layer}
        for kind in SiteKind:
            key = SiteKey(layer, kind)
            row[f"{kind}"] = 100 * shares[key] if key in shares else None
            row[f"{kind} keeps"] = width_words(plans[key]) if key in plans else ""
            row[f"{kind} locked"] = key in locks
        rows.append(row)
    return pd.DataFrame(rows)


def measured_table(found: Sequence[Measured]) -> pd.DataFrame:
    """Return one row per estimator: what it measured, over its calibration seeds if several."""
    from pruning_core.importance.registry import estimator

    by_name: dict[str, list[Measured]] = {}
    for measured in found:
        by_name.setdefault(measured.recipe.scoring.estimator, []).append(measured)
    rows = []
    for name, runs in by_name.items():
        perplexities = [run.pruned.quality.perplexity for run in runs]
        rows.append(
            {
                "instrument": estimator(name).title,
                "perplexity": fmean(perplexities),
                "± over seeds": stdev(perplexities) if len(runs) > 1 else None,
                "over dense": fmean(perplexities) / runs[0].dense.quality.perplexity,
                "next token right": fmean(run.pruned.quality.accuracy for run in runs),
            }
        )
    table = pd.DataFrame(rows).sort_values("perplexity")
    return table.dropna(axis=1, how="all")


def standings_table(found: Sequence[Standing]) -> pd.DataFrame:
    """Return one row per estimator: where a unit stands with it."""
    from pruning_core.importance.registry import estimator

    return pd.DataFrame(
        {
            "instrument": [estimator(standing.estimator).title for standing in found],
            "verdict": ["goes" if standing.goes else "stays" for standing in found],
            "rank": [f"{standing.rank:,} of {standing.units:,}" for standing in found],
            "margin": [standing.margin for standing in found],
            "score at the cut": [standing.ratio for standing in found],
        }
    )
