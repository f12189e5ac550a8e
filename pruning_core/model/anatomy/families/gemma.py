"""Gemma 1."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="Gemma", model_types=("gemma",))
