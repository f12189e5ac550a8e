"""OPT: learned positions, biases throughout; the MLP's projections are the layer's own."""

from pruning_core.model.anatomy.family import AttentionNames, Family, MlpNames

FAMILY = Family(
    name="OPT",
    model_types=("opt",),
    layers="model.decoder.layers",
    attention=AttentionNames(output="out_proj"),
    mlp=MlpNames(module="", gate=None, up="fc1", output="fc2"),
)
