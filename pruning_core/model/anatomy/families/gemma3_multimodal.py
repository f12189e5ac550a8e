"""Gemma 3 with a vision tower: its text layers alone; the tower stays as it is and is not run."""

from pruning_core.model.anatomy.family import AttentionNames, Family

FAMILY = Family(
    name="Gemma 3, multimodal",
    model_types=("gemma3",),
    layers="model.language_model.layers",
    attention=AttentionNames(query_norm="q_norm", key_norm="k_norm"),
)
