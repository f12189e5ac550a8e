"""BLOOM: query, key and value head by head in one projection, ALiBi, no gate.

Attention and MLP add the residual themselves. The slopes of ALiBi are made for all heads of the
dense model and handed to every layer.
"""

from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames
from pruning_core.model.anatomy.structure import HeadCount

FAMILY = Family(
    name="BLOOM",
    model_types=("bloom",),
    layers="transformer.h",
    attention=AttentionNames(
        module="self_attention",
        output="dense",
        fused="query_key_value",
        interleaved=True,
        head_counts=(("num_heads", HeadCount.QUERY),),
        head_biases=("alibi",),
    ),
    mlp=MlpNames(gate=None, up="dense_h_to_4h", output="dense_4h_to_h"),
    layers_return_tuples=True,
    hindrances=(
        ("slow_but_exact", "its code cuts the output projections into slices of fixed width"),
    ),
)
