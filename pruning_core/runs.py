"""A run: recipes, what they measured under one protocol, and where. Plain data, ready for JSON."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pruning_core.calibration import Text
from pruning_core.evaluation.protocol import Protocol
from pruning_core.evaluation.quality import Quality
from pruning_core.files import written_whole
from pruning_core.history import FORMAT
from pruning_core.peak import peak_memory
from pruning_core.planning.plan import Cost, Plan
from pruning_core.recovery.regained import regained


@dataclass(frozen=True)
class Entry:
    """One recipe of a run and what it measured.

    Attributes:
        plan: the recipe, resolved.
        cost: what the pruned model weighs.
        quality: what it measures under the run's protocol.
        seconds: time by stage, such as ``{"scoring": 12.1, "measuring": 80.0}``.
        peak: bytes in use at the most while it was scored and planned, the model included; what
            recipes share is in the first of them.
    """

    plan: Plan
    cost: Cost
    quality: Quality
    seconds: dict[str, float]
    peak: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        recipe = self.plan.recipe
        return {
            "estimator": recipe.scoring.estimator,
            "recipe": recipe.as_dict(),
            "digest": recipe.digest,
            "pattern": str(recipe.pattern),
            "sparsity_of_prunable": self.plan.sparsity,
            "sparsity_of_linears": self.plan.sparsity_of_linears,
            "sparsity_of_all": self.plan.sparsity_of_all,
            "cost": vars(self.cost),
            "quality": quality_as_dict(self.quality),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak,
        }


@dataclass(frozen=True)
class Run:
    """Recipes measured beside the dense model of the same process.

    Attributes:
        model: its reference.
        fingerprint: identifies its weights.
        device, dtype: where it was and in which number format.
        protocol: how the numbers were measured.
        text: where the measured text came from, and its sha256.
        leaked: whether calibration and measurement text overlap; then no number here can be
            compared with anyone else's.
        dense_cost, dense_quality: the dense model.
        entries: the asked recipe first, then those beside it.
        seconds: time by stage of what all entries share: ``loading`` and ``measuring dense``.
    """

    model: str
    fingerprint: str
    device: str
    dtype: str
    protocol: Protocol
    text: tuple[str, str]
    leaked: bool
    dense_cost: Cost
    dense_quality: Quality
    entries: tuple[Entry, ...]
    seconds: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: the asked recipe at the top level, the others beside it."""
        first, *others = (entry.as_dict() for entry in self.entries)
        source, sha256 = self.text
        return {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "device": self.device,
            "dtype": self.dtype,
            "recipe": first["recipe"],
            "digest": first["digest"],
            "protocol": vars(self.protocol) | {"source": source, "sha256": sha256},
            "leaked": self.leaked,
            "dense": {
                "cost": vars(self.dense_cost),
                "quality": quality_as_dict(self.dense_quality),
            },
            "pruned": {name: first[name] for name in first if name not in ("recipe", "digest")},
            "parameters": {
                "before": self.dense_cost.parameters,
                "after": self.entries[0].cost.parameters,
            },
            "beside": others,
            "seconds": self.seconds | self.entries[0].seconds,
            "peak_memory_bytes": _highest([peak_memory(), *(entry.peak for entry in self.entries)]),
            "environment": environment(),
        }


def quality_as_dict(quality: Quality) -> dict[str, Any]:
    """Return plain values; perplexity is None where it overflowed, since JSON has no infinity.

    Where no window overflowed, ``pieces`` says what each measured: nats per token, and over how
    many tokens. From them, two runs of one protocol are compared window by window.
    """
    perplexity, windows = quality.perplexity, quality.windows
    values: dict[str, Any] = {
        "perplexity": perplexity if perplexity < float("inf") else None,
        "accuracy": quality.accuracy,
        "tokens": quality.tokens,
        "windows": len(windows),
    }
    if all(math.isfinite(window.nll) for window in windows):
        values["pieces"] = {
            "loss": [window.nll for window in windows],
            "tokens": [window.scored for window in windows],
        }
    return values


def recovery_as_dict(
    protocol: Protocol, text: Text, sides: Mapping[str, tuple[Quality, int]], *, leaked: bool
) -> dict[str, Any]:
    """Return what was measured before and after a recovery, as plain values for its record.

    Args:
        protocol: how it was measured.
        text: on what.
        sides: quality and number of parameters of ``dense``, ``pruned`` and ``recovered``.
        leaked: whether that text was learned from.
    """
    losses = (sides[name][0].perplexity for name in ("dense", "pruned", "recovered"))
    return {
        "protocol": vars(protocol) | {"source": text.source, "sha256": text.sha256},
        **{
            name: {"quality": quality_as_dict(quality), "parameters": parameters}
            for name, (quality, parameters) in sides.items()
        },
        "regained": regained(*losses),
        "leaked": leaked,
    }


def environment() -> dict[str, str]:
    """Return the versions and the machine that numbers depend on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    names = ("torch", "transformers", "accelerate", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in names},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": gpu,
    }


def _highest(peaks: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the highest of several peaks, place by place; each may have begun anew."""
    return {place: max(peak[place] for peak in peaks) for place in peaks[0]}


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        PrunescopeError: if it cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(text)


def as_json(values: dict[str, Any]) -> str:
    """Return indented JSON that every reader accepts."""
    return json.dumps(values, indent=2, allow_nan=False)
