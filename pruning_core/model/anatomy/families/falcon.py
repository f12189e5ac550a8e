"""Falcon: query, key and value in one projection, no gate; some models have ALiBi.

Falcon-7B has one key/value head; Falcon-40B and -11B (the new decoder architecture) have several,
with the query heads of each beside it; Falcon-RW has one for every query head.
"""

from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames
from pruning_core.model.anatomy.structure import HeadCount

FAMILY = Family(
    name="Falcon",
    model_types=("falcon",),
    layers="transformer.h",
    attention=AttentionNames(
        module="self_attention",
        output="dense",
        fused="query_key_value",
        interleaved=True,
        head_counts=(("num_heads", HeadCount.QUERY), ("num_kv_heads", HeadCount.KV)),
        # With ALiBi the mask carries the slopes, head by head.
        head_biases=("alibi", "attention_mask"),
    ),
    mlp=MlpNames(gate=None, up="dense_h_to_4h", output="dense_4h_to_h"),
    projection="FalconLinear",
    layers_return_tuples=True,
)
