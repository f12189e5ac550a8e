"""SmolLM3: layers with and without rotary positions; the tensors are named as in Llama."""

from pruning_core.model.anatomy.family import Family

FAMILY = Family(name="SmolLM3", model_types=("smollm3",))
