"""A stand-in for Baichuan, whose code comes with its checkpoints: names, shapes and calls alike.

Attention splits one projection into query, key and value at `hidden_size`, and joins the heads at
it again; layers hand over masks by name, and with ALiBi these have a plane for every head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast


class BaichuanConfig(PreTrainedConfig):
    """The config, with one switch in place of two code bases."""

    model_type = "baichuan"

    def __init__(self, alibi: bool = False, **values: Any) -> None:
        self.alibi = alibi
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
            setattr(self, name, values.pop(name, 0))
        self.num_attention_heads = values.pop("num_attention_heads", 1)
        super().__init__(**values)


class Attention(nn.Module):
    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.hidden_size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.head_dim = self.hidden_size // self.num_heads
        self.W_pack = nn.Linear(self.hidden_size, 3 * self.hidden_size, bias=False)
        self.o_proj = nn.Linear(self.hidden_size, self.hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        past_key_value: Any = None,
    ) -> tuple[torch.Tensor, None, Any]:
        windows, length, _ = hidden_states.shape
        packed = self.W_pack(hidden_states).unflatten(-1, (3, self.hidden_size))
        query, key, value = (
            part.view(windows, length, self.num_heads, self.head_dim).transpose(1, 2)
            for part in packed.unbind(-2)
        )
        if past_key_value is not None:
            key, value = past_key_value.update(key, value, self.layer_idx)
        scores = query @ key.transpose(2, 3) / self.head_dim**0.5 + attention_mask
        joined = (scores.softmax(-1) @ value).transpose(1, 2)
        joined = joined.reshape(windows, length, self.hidden_size)
        return self.o_proj(joined), None, past_key_value


class Mlp(nn.Module):
    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: BaichuanConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer_idx)
        self.mlp = Mlp(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, past_key_value: Any = None
    ) -> tuple[torch.Tensor, Any]:
        attended, _, present = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            past_key_value=past_key_value,
        )
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), present


class Decoder(nn.Module):
    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size)
        self.heads = config.num_attention_heads
        self.alibi = config.alibi

    def forward(self, ids: torch.Tensor, padding: torch.Tensor | None, past: Any) -> torch.Tensor:
        hidden = self.embed_tokens(ids)
        mask = self.mask(hidden, padding, past.get_seq_length() if past is not None else 0)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=mask, past_key_value=past)[0]
        return self.norm(hidden)

    def mask(self, hidden: torch.Tensor, padding: torch.Tensor | None, seen: int) -> torch.Tensor:
        """Return what is added to the scores.

        [heads, tokens, keys] with ALiBi and [windows, 1, tokens, keys] without it; with padding
        [windows, heads or 1, tokens, keys].
        """
        windows, length, _ = hidden.shape
        keys = torch.arange(seen + length, device=hidden.device)
        queries = keys[seen:, None]
        lowest = torch.finfo(hidden.dtype).min
        mask = hidden.new_zeros(length, seen + length).masked_fill(keys > queries, lowest)
        if self.alibi:
            slopes = 2.0 ** -torch.arange(1, self.heads + 1, device=hidden.device)
            mask = (mask + slopes[:, None, None] * (keys - queries)).to(hidden.dtype)
        else:
            mask = mask.expand(windows, 1, -1, -1)
        if padding is not None and not padding.all():
            mask = mask.expand(windows, *mask.shape[-3:])
            mask = mask.masked_fill(padding[:, None, None, :] == 0, lowest)
        return mask


class BaichuanForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = BaichuanConfig
    _supports_cache_class = True

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **_kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        hidden = self.model(input_ids, attention_mask, past_key_values if use_cache else None)
        return CausalLMOutputWithPast(
            logits=self.lm_head(hidden), past_key_values=past_key_values if use_cache else None
        )


def register() -> None:
    """Let transformers know the stand-in."""
    AutoConfig.register("baichuan", BaichuanConfig, exist_ok=True)
    AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
