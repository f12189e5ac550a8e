"""How a recovery is trained: plain numbers with their bounds, and presets of them.

An update of a matrix is ``alpha / rank * B A`` with ``A`` [rank, in] and ``B`` [out, rank] (LoRA,
arXiv 2106.09685). The default is LLM-Pruner's recipe (arXiv 2305.11627, section 4.1; public code
horseee/LLM-Pruner, post_training.py), which HyWIA follows; it takes a GPU. Its authors hold rows
back to validate on; here the probe does that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from pruning_core.errors import PrunescopeError, unknown_name

_WHOLE = {
    "rank": 1,
    "alpha": 1,
    "length": 8,
    "batch": 1,
    "micro": 1,
    "epochs": 1,
    "steps": 1,
    "warmup": 0,
    "seed": 0,
}
"""Whole numbers, and the least that each may be."""

_POSITIVE = ("rate", "clip")
_SHARES = {"dropout": 0.95, "distill": 1.0}
"""Fractions from 0, and the most that each may be."""


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PrunescopeError(f"Recovery's {name} is {value!r}: it must be a number.")
    return float(value)


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        text: what is learned from; see `pruning_core.recovery.lessons`.
        rank: of the updates.
        alpha: their scale, times the rank.
        dropout: fraction of an adapter's inputs that is left out of a training step.
        rate: the learning rate of AdamW at its highest.
        length: tokens in a sample at the most.
        batch: samples in one step.
        micro: of these, how many go through the model at a time: the fewer, the less memory.
        epochs: how often every sample is seen; says nothing where `steps` is given.
        steps: how many steps, None for as many as `epochs` needs.
        warmup: steps over which the rate rises, a tenth of all at the most; then it falls to 0.
        clip: the largest norm of a step's gradient.
        distill: weight of KL(dense || trained) beside the loss of the text, 0 to 1.
        seed: draws the samples and their order, the first A, and dropout.
    """

    text: str = "hub:yahma/alpaca-cleaned"
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    rate: float = 1e-4
    length: int = 256
    batch: int = 64
    micro: int = 4
    epochs: int = 2
    steps: int | None = None
    warmup: int = 100
    clip: float = 1.0
    distill: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text:
            raise PrunescopeError(f"The text to train on is {self.text!r}: name one.")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if name == "steps" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PrunescopeError(
                    f"Recovery's {name} is {value!r}: it must be a whole number of at least "
                    f"{least}."
                )
        for name in _POSITIVE:
            value = _number(name, getattr(self, name))
            if not 0 < value < math.inf:
                raise PrunescopeError(f"Recovery's {name} is {value}: it must be more than 0.")
        for name, most in _SHARES.items():
            value = _number(name, getattr(self, name))
            if not 0 <= value <= most:
                raise PrunescopeError(
                    f"Recovery's {name} is {value}: it must lie between 0 and {most:g}."
                )

    def steps_for(self, samples: int) -> int:
        """Return how many steps are trained on so many samples."""
        return self.steps or math.ceil(self.epochs * samples / self.batch)

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of one step of `steps`, counted from 0."""
        rising = min(self.warmup, steps // 10)
        if step < rising:
            return self.rate * (step + 1) / (rising + 1)
        return self.rate * (steps - step) / (steps - rising)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Read what `as_dict` wrote.

        Raises:
            PrunescopeError: if it is not that, or a value is out of bounds.
        """
        if not isinstance(values, Mapping):
            raise PrunescopeError(f"The settings of a recovery must be an object, not {values!r}.")
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise unknown_name("setting of a recovery", str(name), known)
        return cls(**values)


LLM_PRUNER = "llm-pruner"
QUICK = "quick"

PRESETS: Mapping[str, Settings] = {
    LLM_PRUNER: Settings(),
    QUICK: Settings(text="c4", rank=16, alpha=32, rate=1e-3, batch=4, steps=40, warmup=4),
}
"""The presets by name: the recipe of the papers, and a few minutes on two CPU cores."""


def preset(name: str) -> Settings:
    """Return a preset by name.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]
