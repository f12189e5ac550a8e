"""Which code a model runs: that of stock transformers, or some that came with its checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save

_STOCK = "transformers.models."


def stock_class(model: PreTrainedModel) -> type[PreTrainedModel] | None:
    """Return the class of transformers that a model is, or refines; None if it brings its own."""
    return next((c for c in type(model).__mro__ if c.__module__.startswith(_STOCK)), None)


def foreign(model: PreTrainedModel) -> bool:
    """Whether only code that came with the checkpoint can build a model of this kind."""
    return stock_class(model) is None


def stock_config(model: PreTrainedModel) -> PreTrainedConfig:
    """Return a copy of a model's config that stock code can read: no widths layer by layer."""
    config = copy.deepcopy(model.config)
    if foreign(model):
        return config
    kind: type[PreTrainedConfig] = next(
        c for c in type(config).__mro__ if c.__module__.startswith(_STOCK)
    )
    config.per_layer_config = None
    values = config.to_dict()
    values.pop("auto_map", None)
    stock: PreTrainedConfig = kind.from_dict(values)
    stock.name_or_path = config.name_or_path
    return stock


def ship_code(model: PreTrainedModel, config: PreTrainedConfig, folder: Path) -> None:
    """Write the code that a foreign model needs, and name it in its config."""
    if not foreign(model):
        return
    for thing, auto_class in ((model.config, "AutoConfig"), (model, "AutoModelForCausalLM")):
        if getattr(thing, "_auto_class", None) is None:
            type(thing).register_for_auto_class(auto_class)
        custom_object_save(thing, folder, config)
