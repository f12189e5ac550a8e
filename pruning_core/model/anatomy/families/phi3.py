"""Phi-3 and Phi-4-mini: query, key, value in one projection, gate and up in another."""

from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames

FAMILY = Family(
    name="Phi-3",
    model_types=("phi3",),
    attention=AttentionNames(fused="qkv_proj", reads_config=True),
    mlp=MlpNames(fused="gate_up_proj"),
)
