"""Runs as plain values, as `Run.as_dict` returns them, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning_core.history import SavedRun
from pruning_core.history.saved import saved_run
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind

FINGERPRINT = "0123456789abcdef"


def recipe(sparsity: float = 0.2, estimator: str = "fine", model: str = "demo") -> Recipe:
    sites = {SiteKey(layer, kind): sparsity for layer in range(4) for kind in SiteKind}
    return Recipe(model, FINGERPRINT, Scoring(estimator)).with_sparsity(sites)


def values(
    of: Recipe | None = None,
    *,
    perplexity: float | None = 25.0,
    parameters: int = 80,
    protocol: str = "probe",
    limit: int | None = 8,
    sha256: str = "a" * 64,
    device: str = "cpu",
    dtype: str = "float32",
    leaked: bool = False,
    sparsity: float = 0.2,
    losses: Sequence[float] | None = None,
    tasks: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the values of a run of a recipe, dense perplexity 20 and 100 parameters.

    Args:
        losses: of its windows; the dense model's are 3 everywhere then.
    """
    of = of or recipe()
    cost = {"bytes": 4 * parameters, "operations": 2 * parameters}
    quality = {"accuracy": 0.4, "tokens": 2040, "windows": 8}
    kept: list[dict[str, Any]] = [
        {"pieces": {"loss": [*found], "tokens": [255] * len(found)}} if found else {}
        for found in ([3.0] * len(losses or ()), losses)
    ]
    return {
        "format": "prunescope-run/1",
        "model": of.model,
        "fingerprint": of.fingerprint,
        "device": device,
        "dtype": dtype,
        "recipe": of.as_dict(),
        "digest": of.digest,
        "protocol": {
            "name": protocol,
            "title": f"Title of {protocol}",
            "corpus": "embedded",
            "window": 256,
            "limit": limit,
            "bos": False,
            "source": "somewhere",
            "sha256": sha256,
        },
        "leaked": leaked,
        "dense": {
            "cost": {"parameters": 100, "bytes": 400, "operations": 200},
            "quality": {**quality, **kept[0], "perplexity": 20.0},
        },
        "pruned": {
            "estimator": of.scoring.estimator,
            "pattern": str(of.pattern),
            "sparsity_of_prunable": sparsity,
            "sparsity_of_linears": sparsity,
            "sparsity_of_all": sparsity / 2,
            "cost": {"parameters": parameters, **cost},
            "quality": {**quality, **kept[1], "perplexity": perplexity},
            "seconds": {"scoring": 1.0},
            "peak_memory_bytes": {"main": 1000},
        },
        "parameters": {"before": 100, "after": parameters},
        "beside": [],
        "seconds": {"loading": 1.0, "scoring": 1.0},
        "peak_memory_bytes": {"main": 1000},
        "environment": {"python": "3.11", "gpu": "none"},
        **({"tasks": tasks} if tasks else {}),
    }


def task(
    right: float = 0.4, *, dense: float = 0.5, half: float = 0.05, items: int = 100
) -> dict[str, Any]:
    """Return a task as ``evaluate`` reports it, with intervals of `half` to either side."""

    def interval(value: float) -> dict[str, float]:
        return {"value": value, "low": value - half, "high": value + half}

    delta = {**interval(right - dense), "beyond_noise": abs(right - dense) > half}
    return {
        "title": "A task",
        "split": "validation",
        "note": "",
        "source": "local",
        "sha256": "b" * 64,
        "items": items,
        "of": 500,
        "sample": None,
        "shots": 0,
        "scorer": "fast",
        "chance": 0.25,
        "level": 0.95,
        "resumed_items": 0,
        "leaked": False,
        "dense": {"acc": interval(dense)},
        "pruned": {"acc": interval(right)},
        "delta": {"acc": delta},
    }


def run(number: int, lineage: tuple[int, ...] = (), **changes: object) -> SavedRun:
    """Return a saved run by number, of ancestors by number; changes are those of `values`."""
    history = {
        "id": run_id(number),
        "lineage": [run_id(ancestor) for ancestor in lineage],
        "name": f"run {number}",
        "created": "2026-11-25T12:00:00+00:00",
    }
    return saved_run({**values(**changes), "history": history})  # type: ignore[arg-type]


def run_id(number: int) -> str:
    return f"{number:013x}-00000000"
