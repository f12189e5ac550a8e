"""What a model is timed at: reading a prompt or writing token by token, how many and how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.model.forward import positions


class Phase(StrEnum):
    """The two halves of answering: reading the prompt at once, and writing token by token."""

    PREFILL = "prefill"
    DECODE = "decode"


PASSES = {Phase.PREFILL: 3, Phase.DECODE: 10}
"""Passes that latency is timed with at the same widths, after one that warms up."""


@dataclass(frozen=True)
class Workload:
    """What a model is timed at; prints as ``decode, batch 1, length 512``.

    Attributes:
        phase: prefill or decode.
        batch: sequences at once.
        length: tokens of each: those of the prompt, or those in the cache when one more is written.
    """

    phase: Phase = Phase.PREFILL
    batch: int = 1
    length: int = 512

    def __post_init__(self) -> None:
        for name, value in (("batch", self.batch), ("length", self.length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PrunescopeError(
                    f"The {name} to time at is {value!r}: it must be a whole number of at least 1."
                )

    def __str__(self) -> str:
        return f"{self.phase}, batch {self.batch}, length {self.length}"

    @property
    def tokens(self) -> int:
        """Tokens that one forward pass reads or writes, those of all sequences together."""
        return self.batch * (self.length if self.phase is Phase.PREFILL else 1)


def check_length(model: PreTrainedModel, workload: Workload) -> None:
    """Refuse what has more positions than a model.

    Raises:
        PrunescopeError: with the longest length that it has.
    """
    decode = workload.phase is Phase.DECODE
    needed = workload.length + (1 + PASSES[Phase.DECODE] if decode else 0)
    most = positions(model)
    if most is not None and needed > most:
        raise PrunescopeError(
            f"Timing at length {workload.length} takes {needed} positions, and the model has "
            f"{most}. Choose a length of at most {most - needed + workload.length}."
        )


def forward_pass(model: PreTrainedModel, workload: Workload) -> Callable[[], None]:
    """Return what runs one pass; for decode, which fills the cache here, each writes one token."""
    draw = torch.Generator().manual_seed(0)
    vocabulary = len(model.get_input_embeddings().weight)
    shape = (workload.batch, workload.length + 1)
    ids = torch.randint(vocabulary, shape, generator=draw).to(model.device)
    prompt, token = ids[:, :-1], ids[:, -1:]

    def prefill() -> None:
        model(input_ids=prompt, use_cache=False, logits_to_keep=1)

    if workload.phase is Phase.PREFILL:
        return prefill
    cache = model(input_ids=prompt, use_cache=True, logits_to_keep=1).past_key_values

    def decode() -> None:
        nonlocal cache
        cache = model(input_ids=token, past_key_values=cache, use_cache=True).past_key_values

    return decode
