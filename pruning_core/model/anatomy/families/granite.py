"""Granite: multipliers on embeddings, attention, residuals and logits; none is coupled."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="Granite", model_types=("granite",))
