"""The export formats, one small file each; a file dropped in here joins by itself."""

from __future__ import annotations

import importlib
import pkgutil

from pruning_core.errors import unknown_name
from pruning_core.export.format import Format

_ORDER = ("plain", "padded", "per-layer", "gguf", "masks")

_FOUND = [
    importlib.import_module(f"{__name__}.{module.name}").FORMAT
    for module in pkgutil.iter_modules(__path__)
]

FORMATS: dict[str, Format] = {
    format.name: format
    for format in sorted(
        _FOUND, key=lambda f: _ORDER.index(f.name) if f.name in _ORDER else len(_ORDER)
    )
}
"""Formats by name, what opens in most places first."""


def format_named(name: str) -> Format:
    """Return a format.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    return FORMATS[name]
