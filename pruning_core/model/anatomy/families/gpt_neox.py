"""GPT-NeoX and Pythia: query, key and value head by head in one projection, no gate."""

from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames

FAMILY = Family(
    name="GPT-NeoX",
    model_types=("gpt_neox",),
    layers="gpt_neox.layers",
    attention=AttentionNames(
        module="attention",
        output="dense",
        fused="query_key_value",
        interleaved=True,
        # Its code reads the number of heads off the projections.
        head_counts=(),
    ),
    mlp=MlpNames(gate=None, up="dense_h_to_4h", output="dense_4h_to_h"),
)
