"""GPT-2: matrices stored [in, out] (`Conv1D`); query, key, value in one projection, no gate."""

from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames
from pruning_core.model.anatomy.structure import HeadCount

FAMILY = Family(
    name="GPT-2",
    model_types=("gpt2",),
    layers="transformer.h",
    attention=AttentionNames(
        module="attn",
        output="c_proj",
        fused="c_attn",
        # The width at which the fused projection is split.
        head_counts=(("num_heads", HeadCount.QUERY), ("split_size", HeadCount.WIDTH)),
    ),
    mlp=MlpNames(gate=None, up="c_fc", output="c_proj"),
)
