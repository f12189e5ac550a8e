"""Qwen 2 and 2.5: biases on the query, key and value projections."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="Qwen 2", model_types=("qwen2", "qwen2_moe"))
