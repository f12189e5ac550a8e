"""The families Prunescope knows, one small file each; a file dropped in here joins by itself."""

from __future__ import annotations

import importlib
import pkgutil

from pruning_core.model.anatomy.family import Family

FAMILIES: dict[str, Family] = {
    model_type: family
    for module in pkgutil.iter_modules(__path__)
    for family in [importlib.import_module(f"{__name__}.{module.name}").FAMILY]
    for model_type in family.model_types
}
"""Families by the ``model_type`` of a config."""
