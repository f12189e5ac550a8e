"""What a comparison found, as plain values ready for JSON.

Rank correlation and overlap are given layer by layer and as means over the layers, attention and
MLPs apart: attention's few query heads and an MLP's many channels agree to different degrees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

import torch

from pruning_core.importance.compare import correlations, overlap, spread
from pruning_core.importance.map import ImportanceMap
from pruning_core.peak import peak_memory
from pruning_core.planning.plan import Plan, UnitPlan
from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.runs import Entry, Run, environment, quality_as_dict

FORMAT = "prunescope-comparison/1"


def comparison(run: Run, maps: Sequence[ImportanceMap], estimators: int) -> dict[str, Any]:
    """Return what a run of many estimators says about each and about every two.

    Args:
        run: its entries have the same sparsities; the estimators on one calibration, then the same
            estimators, in the same order, on the next one.
        maps: what decided each entry.
        estimators: how many there are.
    """
    source, sha256 = run.text
    first = run.entries[:estimators]
    calibrations = [entry.plan.recipe.scoring.calibration for entry in run.entries[::estimators]]
    return {
        "format": FORMAT,
        "model": run.model,
        "fingerprint": run.fingerprint,
        "device": run.device,
        "dtype": run.dtype,
        "calibration": asdict(calibrations[0]),
        "protocol": vars(run.protocol) | {"source": source, "sha256": sha256},
        "leaked": run.leaked,
        "dense": {"cost": vars(run.dense_cost), "quality": quality_as_dict(run.dense_quality)},
        "pruned": [entry.as_dict() for entry in first],
        "agreement": _agreement(first, maps[:estimators]),
        "seeds": {
            "values": [calibration.seed for calibration in calibrations],
            "estimators": [
                _over_seeds(run.entries[index::estimators], maps[index::estimators])
                for index in range(estimators)
            ],
        }
        if len(calibrations) > 1
        else None,
        "seconds": run.seconds,
        "peak_memory_bytes": peak_memory(),
        "environment": environment(),
    }


def _agreement(entries: Sequence[Entry], maps: Sequence[ImportanceMap]) -> dict[str, Any]:
    """Return rank correlation and overlap of every two estimators, by kind of site."""
    removed = [_removed(entry.plan) for entry in entries]
    return {
        str(kind): _layers_and_mean(
            keys,
            correlation={key: correlations(maps, key) for key in keys},
            # Where nothing leaves, there is no choice to agree on.
            overlap={
                key: overlap([gone[key] for gone in removed])
                for key in keys
                if len(removed[0][key])
            },
        )
        for kind, keys in _by_kind(maps[0]).items()
    }


def _over_seeds(entries: Sequence[Entry], maps: Sequence[ImportanceMap]) -> dict[str, Any]:
    """Return how one estimator's perplexity and ranking depend on the calibration's seed."""
    removed = [_removed(entry.plan) for entry in entries]
    spreads = spread(maps, removed)
    return {
        "estimator": maps[0].scoring.estimator,
        "perplexity": _summary([entry.quality.perplexity for entry in entries]),
        "agreement": {
            str(kind): _layers_and_mean(
                keys,
                correlation={key: _double(spreads[key].correlation) for key in keys},
                same_fate={
                    key: _double(spreads[key].same_fate) for key in keys if len(removed[0][key])
                },
            )
            for kind, keys in _by_kind(maps[0]).items()
        },
    }


def _double(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _by_kind(scores: ImportanceMap) -> dict[SiteKind, list[SiteKey]]:
    keys = {kind: [key for key in scores.sites if key.kind is kind] for kind in SiteKind}
    return {kind: found for kind, found in keys.items() if found}


def _layers_and_mean(
    keys: Sequence[SiteKey], **figures: Mapping[SiteKey, torch.Tensor]
) -> dict[str, Any]:
    """Return figures by layer, None where a site has none, and their means over the layers."""
    means = {
        name: torch.stack(list(found.values())).mean(0).tolist() if found else None
        for name, found in figures.items()
    }
    layers = [
        {
            "layer": key.layer,
            **{
                name: found[key].tolist() if key in found else None
                for name, found in figures.items()
            },
        }
        for key in keys
    ]
    return {**means, "layers": layers}


def _removed(plan: Plan) -> Mapping[SiteKey, torch.Tensor]:
    assert isinstance(plan, UnitPlan), "only units are compared"
    return plan.removed


def _summary(perplexities: Sequence[float]) -> dict[str, Any]:
    """Return what several perplexities come to; None where one of them overflowed.

    The standard deviation is that of a sample: the seeds stand for all that might have been drawn.
    """
    known = all(math.isfinite(value) for value in perplexities)
    return {
        "mean": fmean(perplexities) if known else None,
        "deviation": stdev(perplexities) if known else None,
        "lowest": min(perplexities) if known else None,
        "highest": max(perplexities) if known else None,
        "values": [value if math.isfinite(value) else None for value in perplexities],
    }
