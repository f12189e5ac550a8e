"""Evaluations and surveys as plain values, as the commands write them, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pruning_core.recipe import Recipe
from tests.history import run_values


def interval(value: float | None, half: float = 0.01) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - half, "high": value + half}


def differs(value: float, half: float = 0.01, none: float = 0.0) -> dict[str, Any]:
    return {**interval(value, half), "beyond_noise": abs(value - none) > half}


def evaluation(
    of: Recipe | None = None,
    *,
    name: str = "probe",
    perplexity: float | None = 25.0,
    dense: float = 20.0,
    limit: int | None = 8,
    leaked: bool = False,
    tasks: dict[str, Any] | None = None,
    samples: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Return what ``evaluate`` measured of a recipe, or of the dense model alone."""
    measured = {
        "name": name,
        "title": f"Title of {name}",
        "corpus": "embedded",
        "window": 256,
        "limit": limit,
        "bos": "once",
        "stride": None,
        "about": "Nobody.",
        "source": "somewhere",
        "sha256": "a" * 64,
        "windows": 8,
        "tokens": 2040,
        "level": 0.95,
        "leaked": leaked,
        "dense": {"perplexity": interval(dense, 1), "accuracy": interval(0.45)},
        "seconds": 3.0,
    }
    if of is not None:
        measured["pruned"] = {"perplexity": interval(perplexity, 1), "accuracy": interval(0.4)}
        measured["delta"] = {"accuracy": differs(-0.05)}
        if perplexity is not None:
            ratio = differs(perplexity / dense, none=1.0)
            measured["delta"] |= {"loss": differs(0.2), "perplexity_ratio": ratio}
        measured["agreement"] = {
            "divergence": interval(0.25),
            "highest_divergence": 3.0,
            "same_prediction": interval(0.7),
        }
    return {
        "format": "prunescope-evaluation-1",
        "model": "demo",
        "fingerprint": run_values.FINGERPRINT,
        "device": "cpu",
        "dtype": "float32",
        "recipe": of.as_dict() if of else None,
        "digest": of.digest if of else None,
        "sparsity_of_prunable": 0.2 if of else 0.0,
        "protocols": {name: measured},
        "tasks": tasks or {},
        **({"samples": [*samples]} if samples else {}),
        "environment": {"python": "3.11", "gpu": "none"},
    }


def survey(*recipes: Recipe, complete: bool = True) -> dict[str, Any]:
    """Return a survey of recipes, perplexity 30 for the first, 31 for the second and so on."""
    shared = run_values.values()
    rows = [
        {
            **run_values.values(of, perplexity=30.0 + number)["pruned"],
            "label": f"{of.scoring.estimator} of the table",
            "asked": 0.2,
            "recipe": of.as_dict(),
            "digest": of.digest,
        }
        for number, of in enumerate(recipes)
    ]
    names = ("model", "fingerprint", "device", "dtype", "protocol", "leaked", "dense")
    return {
        "format": "prunescope-survey/1",
        **{name: shared[name] for name in names},
        "calibration": {},
        "environment": shared["environment"],
        "complete": complete,
        "rows": rows,
        "notes": ["What a reader must know."],
        "seconds": {"loading": 1.0, "measuring dense": 2.0},
    }
