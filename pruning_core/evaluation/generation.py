"""Text from the model on the bench, greedy, so that dense and pruned answers can be compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from pruning_core.errors import PrunescopeError
from pruning_core.progress import Tick, silent


@dataclass(frozen=True)
class Generated:
    """A continuation.

    Attributes:
        text: what the model wrote after the prompt.
        tokens: how many tokens that is.
        seconds: time from prompt to the last token.
    """

    text: str
    tokens: int
    seconds: float


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    *,
    tokens: int = 48,
    tick: Tick = silent,
    note: str = "",
) -> Generated:
    """Continue a prompt greedily by at most `tokens` tokens.

    Raises:
        PrunescopeError: if the prompt holds no token.
        Cancelled: by `tick`, between tokens.
    """
    encoded = tokenizer(prompt, return_tensors="pt")
    length = encoded.input_ids.shape[1]
    if not prompt.strip() or not length:
        raise PrunescopeError("The prompt is empty: write a few words for the model to continue.")

    def heartbeat(ids: torch.Tensor, _scores: Any, **_kwargs: Any) -> torch.Tensor:
        tick("writing", ids.shape[1] - length, tokens, note)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    started = time.perf_counter()
    output = model.generate(
        input_ids=encoded.input_ids.to(model.device),
        attention_mask=encoded.attention_mask.to(model.device),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else None,
        stopping_criteria=StoppingCriteriaList([heartbeat]),
    )
    new = output[0, length:]
    seconds = time.perf_counter() - started
    return Generated(tokenizer.decode(new, skip_special_tokens=True), len(new), seconds)
