"""Llama 1 to 3 and what shares its blocks (SmolLM, SmolLM2, TinyLlama, Vicuna)."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="Llama", model_types=("llama",))
