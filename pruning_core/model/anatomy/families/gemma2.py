"""Gemma 2: norms before and after each sub-layer, capped logits; none of it is coupled."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="Gemma 2", model_types=("gemma2",))
