"""What stands in for a sub-layer that has lost every unit, so that stock layers can still call it.

It adds nothing to the residual stream or, where a bias repairs what has left, that bias.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Removed(nn.Module):
    """What both kinds have in common: the bias, if there is one."""

    shift: torch.Tensor | None

    def __init__(self, shift: torch.Tensor | None = None) -> None:
        """Take what the sub-layer contributed on average, [hidden], or None for nothing."""
        super().__init__()
        self.register_buffer("shift", shift, persistent=False)

    def contribution(
        self, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> torch.Tensor:
        """Return what a sub-layer returns for hidden states, [..., tokens, hidden].

        Args:
            residual: given to a sub-layer that adds it itself.
        """
        start = torch.zeros_like(hidden_states) if residual is None else residual
        return start if self.shift is None else start + self.shift


class RemovedMlp(_Removed):
    """An MLP without units."""

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return its contribution, [..., tokens, hidden]."""
        return self.contribution(hidden_states, residual)


class RemovedAttention(_Removed):
    """Attention without units.

    It still writes one number per token into the key/value cache: transformers reads the length of
    the sequence off the cache of a layer, and generation goes silently wrong where that layer has
    nothing to say.
    """

    def __init__(self, layer_idx: int, shift: torch.Tensor | None = None) -> None:
        super().__init__(shift)
        self.layer_idx = layer_idx

    def forward(
        self,
        hidden_states: torch.Tensor,
        residual: torch.Tensor | None = None,
        *,
        past_key_values: Any = None,
        layer_past: Any = None,
        **_kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return its contribution, [batch, tokens, hidden], and no attention map.

        Args:
            residual: given to attention that adds it itself.
            past_key_values, layer_past: the cache, by either of its names.
        """
        cache = layer_past if past_key_values is None else past_key_values
        if cache is not None:
            batch, tokens, _ = hidden_states.shape
            clock = hidden_states.new_zeros(batch, 1, tokens, 1)
            cache.update(clock, clock, self.layer_idx)
        return self.contribution(hidden_states, residual), None
