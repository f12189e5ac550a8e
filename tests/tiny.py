"""Tiny random models of every supported family, in fp64 so that equal means equal."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 97

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 36,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text": {
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0},
    "phi3": {},
}
"""What each family's tiny config adds to `SHAPE`."""


def tiny_model(model_type: str = "llama", seed: int = 0, **changes: object) -> PreTrainedModel:
    """Return a small random model with norms and biases that are not trivially 1 and 0."""
    torch.manual_seed(seed)
    values = {**SHAPE, **FAMILIES.get(model_type, {}), **changes}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **values))
    model = model.to(torch.float64).eval().requires_grad_(False)
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.copy_(noise * 0.3 + 1 if parameter.ndim == 1 else noise * 0.15)
    return model


def tokens(windows: int = 2, length: int = 24, seed: int = 1) -> torch.Tensor:
    """Return random token windows, int64 [windows, length]."""
    return torch.randint(
        3, VOCABULARY, (windows, length), generator=torch.Generator().manual_seed(seed)
    )
