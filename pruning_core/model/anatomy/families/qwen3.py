"""Qwen 3: a norm on every query and key head, one weight vector for all heads."""

from pruning_core.model.anatomy.family import AttentionNames, Family

FAMILY = Family(
    name="Qwen 3",
    model_types=("qwen3", "qwen3_moe"),
    attention=AttentionNames(query_norm="q_norm", key_norm="k_norm"),
)
