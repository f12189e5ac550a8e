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

GEMMA3: dict[str, object] = {
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}

FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3,
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0},
    "phi3": {},
}
"""What each family's tiny config adds to `SHAPE`."""

MIXTURES: dict[str, dict[str, object]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 24,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
"""The same for mixtures of experts, of which attention alone is prunable."""

_SHORT = {"sliding_window": 5}
_SHORT_ABOVE = {**_SHORT, "use_sliding_window": True, "max_window_layers": 1}

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "llama, every head its own group": ("llama", {"num_key_value_heads": 9}),
    "phi3, every head its own group": ("phi3", {"num_key_value_heads": 9}),
    "olmo2, every head its own group": ("olmo2", {"num_key_value_heads": 9}),
    "llama, one group": ("llama", {"num_attention_heads": 4, "num_key_value_heads": 1}),
    "gemma3_text, one group": ("gemma3_text", {"num_attention_heads": 4, "num_key_value_heads": 1}),
    "phi3, one group": ("phi3", {"num_attention_heads": 4, "num_key_value_heads": 1}),
    "mistral, short window": ("mistral", _SHORT),
    "phi3, short window": ("phi3", _SHORT),
    "qwen2, short window": ("qwen2", _SHORT_ABOVE),
    "qwen3, short window": ("qwen3", _SHORT_ABOVE),
}
"""Other shapes than 9 heads in 3 groups, and windows shorter than the text: the family, and what
is added to its tiny config."""

_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def tiny_model(name: str = "llama", seed: int = 0, **changes: object) -> PreTrainedModel:
    """Return a small random model with norms and biases that are not trivially 1 and 0.

    Args:
        name: a model type, or one of `VARIANTS`.
    """
    torch.manual_seed(seed)
    model_type, varied = VARIANTS.get(name, (name, {}))
    values = {**SHAPE, **(FAMILIES | MIXTURES).get(model_type, {}), **varied, **changes}
    if model_type == "gemma3":
        values = {"text_config": values, "vision_config": _TOWER, "mm_tokens_per_image": 4}
    config = AutoConfig.for_model(model_type, **values)
    # Stock experts multiply in groups, for which torch has no fp64 kernel.
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config)
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
