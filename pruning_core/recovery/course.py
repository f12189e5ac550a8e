"""A course of training steps: a model with adapters, and what one step of them is.

Nothing in a step depends on what came before it but the adapters and the optimiser's moments: the
samples of a step follow from its number, its dropout is drawn from a seed of its own, its rate is
the schedule's. So a course that goes on from saved adapters and moments comes to the numbers of one
that never stopped, on one machine and with kernels that always add in the same order, as a CPU's
do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.recovery.adapters import Adapters, gpus
from pruning_core.recovery.lessons import Lessons, Sample
from pruning_core.recovery.objective import objective, padded
from pruning_core.recovery.settings import Settings

_KEPT = ("exp_avg", "exp_avg_sq")
_SEED_STEP = 1_000_003


class Course:
    """A model with adapters, and what a step of them is."""

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: Adapters,
        lessons: Lessons,
        settings: Settings,
        teacher: PreTrainedModel | None,
    ) -> None:
        self.model = model
        self.adapters = adapters
        self.settings = settings
        self.steps = settings.steps_for(len(lessons.samples))
        self.optimiser = torch.optim.AdamW(
            adapters.parameters.values(), lr=settings.rate, weight_decay=0.0
        )
        self._samples = lessons.samples
        self._teacher = teacher
        self._gpus = gpus({parameter.device for parameter in adapters.parameters.values()})

    def step(self, number: int, between: Callable[[], None]) -> float:
        """Do one step and return its loss.

        Args:
            number: of the step, from 0.
            between: is called before every micro-batch; what it raises leaves the adapters as they
                were before the step.
        """
        settings = self.settings
        # Those of one length together: less to fill up.
        batch = sorted(self._batch(number), key=lambda sample: len(sample.ids))
        tokens = sum(sample.predicted for sample in batch)
        loss = 0.0
        self.optimiser.zero_grad()
        with torch.random.fork_rng(self._gpus), self.adapters.learning():
            torch.manual_seed(settings.seed * _SEED_STEP + number)
            for start in range(0, len(batch), settings.micro):
                between()
                loss += self._learn(batch[start : start + settings.micro], tokens)
        norm = torch.nn.utils.clip_grad_norm_(self.adapters.parameters.values(), settings.clip)
        if not (math.isfinite(loss) and norm.isfinite()):
            raise PrunescopeError(
                f"Training went astray: the loss of step {number + 1} is {loss}, the norm of its "
                f"gradient {float(norm)}. Choose a lower rate (--lr), or train in float32."
            )
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate_at(number, self.steps)
        self.optimiser.step()
        return loss

    def moments(self) -> dict[str, torch.Tensor]:
        """Return what the optimiser has gathered, by the names of the adapters' parameters."""
        return {
            f"{name}.{kind}": self.optimiser.state[parameter][kind]
            for name, parameter in self.adapters.parameters.items()
            for kind in _KEPT
        }

    def set_moments(self, moments: Mapping[str, torch.Tensor], steps: int) -> None:
        """Make the optimiser what it was after so many steps.

        Raises:
            KeyError: if moments are missing.
        """
        for name, parameter in self.adapters.parameters.items():
            kept = {kind: moments[f"{name}.{kind}"].to(parameter.device) for kind in _KEPT}
            self.optimiser.state[parameter] = {"step": torch.tensor(float(steps)), **kept}

    def _batch(self, number: int) -> list[Sample]:
        """Return the samples of a step: each epoch goes through all in an order of its own."""
        seed, count = self.settings.seed, len(self._samples)
        first = number * self.settings.batch
        places = (divmod(p, count) for p in range(first, first + self.settings.batch))
        return [self._samples[_order(seed, epoch, count)[offset]] for epoch, offset in places]

    def _learn(self, samples: Sequence[Sample], tokens: int) -> float:
        ids = padded(samples).to(self.model.device)
        dense = None
        if self._teacher is not None:
            with torch.no_grad():
                dense = self._teacher(input_ids=ids, use_cache=False).logits
        with torch.enable_grad():
            logits = self.model(input_ids=ids, use_cache=False).logits
        weight = self.settings.distill
        loss, gradient = objective(logits.detach(), dense, samples, weight, tokens)
        logits.backward(gradient)
        return loss


@lru_cache(maxsize=2)  # a step may lie in two epochs
def _order(seed: int, epoch: int, count: int) -> list[int]:
    draw = torch.Generator().manual_seed(seed * _SEED_STEP + epoch)
    return torch.randperm(count, generator=draw).tolist()
