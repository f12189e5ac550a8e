"""Mistral, and Mixtral: the experts of the latter are refused, its attention is not."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="Mistral", model_types=("mistral", "mixtral"))
