"""What stands in for a sub-layer that has lost every unit: a no-op that stock layers can call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class RemovedMlp(nn.Module):
    """An MLP that adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return zeros like the hidden states, [..., tokens, hidden]."""
        return torch.zeros_like(hidden_states)


class RemovedAttention(nn.Module):
    """Attention that adds nothing to the residual stream.

    It still writes one number per token into the key/value cache: transformers reads the length of
    the sequence off the cache of a layer, and generation goes silently wrong where that layer has
    nothing to say.
    """

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def forward(
        self, hidden_states: torch.Tensor, past_key_values: Any = None, **_kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Return zeros like the hidden states, [batch, tokens, hidden], and no attention map."""
        if past_key_values is not None:
            batch, tokens, _ = hidden_states.shape
            clock = hidden_states.new_zeros(batch, 1, tokens, 1)
            past_key_values.update(clock, clock, self.layer_idx)
        return torch.zeros_like(hidden_states), None
