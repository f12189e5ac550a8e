"""Tiny random models of every supported family, in fp64 so that equal means equal."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.model.anatomy import baichuan

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

# These have no head width of their own: 72 / 9 makes it 8 here too.
_WIDE: dict[str, object] = {"hidden_size": 72, "head_dim": None}

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
    "bloom": _WIDE,
    "opt": {**_WIDE, "ffn_dim": 40, "word_embed_proj_dim": 72},
    "gpt2": {**_WIDE, "n_inner": 40},
    "gpt_neox": _WIDE,
    "falcon": {
        **_WIDE,
        "ffn_hidden_size": 40,
        "new_decoder_architecture": True,
        "num_kv_heads": 3,
        "bias": True,
    },
    "baichuan": _WIDE,
}
"""What each family's tiny config adds to `SHAPE`; None takes away."""

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
    "bloom, residual after the norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "opt, norm after the sub-layers": (
        "opt",
        {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
    ),
    "gpt2, scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox, one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "falcon, one group": ("falcon", {"new_decoder_architecture": False, "bias": False}),
    "falcon, alibi": (
        "falcon",
        {
            "new_decoder_architecture": False,
            "multi_query": False,
            "parallel_attn": False,
            "num_kv_heads": 9,
            "alibi": True,
        },
    ),
    "baichuan, alibi": ("baichuan", {"alibi": True}),
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


baichuan.register()


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
    given = {key: value for key, value in values.items() if value is not None}
    config = AutoConfig.for_model(model_type, **given)
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
