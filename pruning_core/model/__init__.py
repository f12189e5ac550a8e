"""Where models come from: the demo, the hub, a folder, a GGUF file.

`load` turns a reference into a model in memory: `prepare` refuses what can't work, `read` takes the
memory. `preflight` says beforehand how much that will be. How a family names its tensors is
`anatomy`'s business; nothing here changes a weight.

The names are imported when they are first asked for, so that `reference` can be used without
waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruning_core.model.loading import LoadedModel, Prepared, load, prepare, read
    from pruning_core.model.memory import Preflight, preflight
    from pruning_core.model.reference import ModelRef, Source

__all__ = [
    "LoadedModel",
    "ModelRef",
    "Preflight",
    "Prepared",
    "Source",
    "load",
    "preflight",
    "prepare",
    "read",
]

_HOMES = {
    "LoadedModel": "loading",
    "ModelRef": "reference",
    "Preflight": "memory",
    "Prepared": "loading",
    "Source": "reference",
    "load": "loading",
    "preflight": "memory",
    "prepare": "loading",
    "read": "loading",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
