"""Baichuan and Baichuan 2: query, key, value in one projection; ALiBi in the models of 13 billion.

Its code comes with the checkpoint and keeps its key/value cache in a way of its own.
"""

from pruning_core.model.anatomy.family import AttentionNames, Family
from pruning_core.model.anatomy.structure import HeadCount

FAMILY = Family(
    name="Baichuan",
    model_types=("baichuan",),
    attention=AttentionNames(
        fused="W_pack",
        # Its code splits and joins the heads at hidden_size.
        head_counts=(("num_heads", HeadCount.QUERY), ("hidden_size", HeadCount.WIDTH)),
        # With ALiBi the mask carries the slopes, head by head.
        head_biases=("attention_mask",),
        # A layer expects back what it caches, and reads its length off the first layer's.
        removable=False,
    ),
    layers_return_tuples=True,
)
