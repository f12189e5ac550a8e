"""What the engine hands to the pages: the model it holds, and what jobs have brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from pruning_core.recipe import Recipe

if TYPE_CHECKING:
    from pruning_core.evaluation.generation import Generated
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.quality import Quality
    from pruning_core.evaluation.speed import Speeds
    from pruning_core.model.anatomy import Anatomy
    from pruning_core.planning.plan import Cost


@dataclass(frozen=True)
class OnBench:
    """The loaded model, as a page sees it; `id` is new each time one is put on the bench."""

    ref: str
    fingerprint: str
    device: str
    dtype: str
    anatomy: Anatomy
    dense_bytes: int
    memory: str
    seconds: float
    id: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Side:
    """The dense or the pruned model in numbers."""

    quality: Quality
    cost: Cost


class Sample(NamedTuple):
    """A few items of a task that follow the slider: its name, and how many."""

    task: str
    items: int


@dataclass(frozen=True)
class Measured:
    """A recipe measured beside the dense model, by the same process on the same windows.

    `bench` is the `OnBench.id` of the model: the same weights in another dtype measure otherwise.
    `predicted` is the loss that was predicted before, nats per token, if one was. `speeds` are None
    until both are timed. `saved` is the id of the run in the history, None where it could not be
    saved. `answers` are what ``evaluate`` reports of the task of a `sample` that was asked along,
    None where there was none or it could not be asked: `unasked` then says why. `unsaved` says why
    the run, or the answers, could not be saved.
    """

    bench: str
    recipe: Recipe
    protocol: Protocol
    leaked: bool
    sparsity: float
    dense: Side
    pruned: Side
    predicted: float | None = None
    speeds: Speeds | None = None
    saved: str | None = None
    unsaved: str | None = None
    sample: Sample | None = None
    answers: Mapping[str, Any] | None = None
    unasked: str | None = None

    def answered(self, sample: Sample) -> Mapping[str, Any] | None:
        """Return the answers to a sample, None if it was not asked or could not be."""
        return self.answers if self.sample == sample else None


@dataclass(frozen=True)
class Gathered:
    """How many of the measurements are made that predictions need, and how many are left."""

    done: int
    left: int


@dataclass(frozen=True)
class Answers:
    """What the dense and the pruned model write after one prompt."""

    recipe: Recipe
    prompt: str
    dense: Generated
    pruned: Generated | None
