"""Gemma 3, text only: a norm on every query and key head, few key/value heads."""

from pruning_core.model.anatomy.family import AttentionNames, Family

FAMILY = Family(
    name="Gemma 3",
    model_types=("gemma3_text",),
    attention=AttentionNames(query_norm="q_norm", key_norm="k_norm"),
)
