"""A model whose layers differ in width: stock transformers layers, each built from its own config.

Written by Prunescope beside the weights; needs transformers 5.15 or newer. config.json says under
"per_layer_config" what differs: "intermediate_size", "num_attention_heads", "num_key_value_heads",
and under "skip" which sub-layers are gone, "attention" or "mlp". Names and shapes of the weights
are those of the stock model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel


@strict
class PerLayerConfig(LlamaConfig):
    """The stock config; head counts are checked layer by layer."""

    def validate_architecture(self) -> None:
        for layer in self.per_layer_config:
            if layer.num_attention_heads % layer.num_key_value_heads:
                raise ValueError("query heads must be a multiple of key/value heads in each layer")


class SkippedAttention(nn.Module):
    """Adds nothing, but counts tokens in the cache, whose length is read off a layer."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def forward(
        self, hidden_states: torch.Tensor, past_key_values: Any = None, **_kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        if past_key_values is not None:
            batch, tokens, _ = hidden_states.shape
            clock = hidden_states.new_zeros(batch, 1, tokens, 1)
            past_key_values.update(clock, clock, self.layer_idx)
        return torch.zeros_like(hidden_states), None


class SkippedMlp(nn.Module):
    """Adds nothing."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


def _uniform(config: PerLayerConfig) -> PerLayerConfig:
    """Return the config without what differs: the stock constructors read global values."""
    uniform = copy.deepcopy(config)
    uniform.per_layer_config = None
    return uniform


def _adopt(model: LlamaModel | LlamaForCausalLM, config: PerLayerConfig) -> None:
    """Give a model that was built from the uniform config the real one, with what it settled."""
    config._attn_implementation = model.config._attn_implementation
    model.config = config


class PerLayerModel(LlamaModel):
    config_class = PerLayerConfig

    def __init__(self, config: PerLayerConfig) -> None:
        super().__init__(_uniform(config))
        _adopt(self, config)
        for index, stock in enumerate(self.layers):
            own = config.per_layer_config[index]
            skipped = getattr(own, "skip", ())
            # Skipped parts are built small and then replaced.
            own.intermediate_size = own.intermediate_size or 1
            layer = type(stock)(own, index)
            if "attention" in skipped:
                layer.self_attn = SkippedAttention(index)
            if "mlp" in skipped:
                layer.mlp = SkippedMlp()
            self.layers[index] = layer
        self.post_init()


class PerLayerForCausalLM(LlamaForCausalLM):
    config_class = PerLayerConfig

    def __init__(self, config: PerLayerConfig) -> None:
        super().__init__(_uniform(config))
        _adopt(self, config)
        self.model = PerLayerModel(config)
        self.post_init()
