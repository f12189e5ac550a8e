"""Safetensors files written one tensor at a time, so that no second copy of a model is ever held.

The format is eight bytes with the length of a JSON header, the header, and the tensors end to end.
The library's own writer first gathers a whole file in memory; this one makes a tensor, writes it,
and lets it go. A model that fills more than one file gets the index that transformers reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from pruning_core.progress import Tick, silent

_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls the number formats that occur here."""


@dataclass(frozen=True)
class Stored:
    """A tensor to be written.

    Attributes:
        name: its name in the file.
        shape, dtype: what it will be.
        make: returns it when it is its turn, on any device.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """What it takes on the disk."""
        return prod(self.shape) * self.dtype.itemsize


def published(tensors: Sequence[Stored], model: PreTrainedModel) -> list[Stored]:
    """Return the tensors under the names, and cut into the pieces, that checkpoints have.

    In memory some models have others: experts are stacked there, and a prefix can be missing.

    Args:
        model: the loaded model that the names are of.
    """
    found: list[Stored] = []
    for tensor in tensors:
        outline = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        pieces = revert_weight_conversion(model, {tensor.name: outline})
        if len(pieces) == 1 and next(iter(pieces.values())) is outline:
            found.append(Stored(next(iter(pieces)), tensor.shape, tensor.dtype, tensor.make))
            continue
        for name, piece in pieces.items():

            def make(name: str = name, whole: Stored = tensor) -> torch.Tensor:
                converted: dict[str, torch.Tensor] = revert_weight_conversion(
                    model, {whole.name: whole.make()}
                )
                return converted[name]

            found.append(Stored(name, tuple(piece.shape), tensor.dtype, make))
    return found


def write_model(
    folder: Path, tensors: Sequence[Stored], largest: int, tick: Tick = silent
) -> list[Path]:
    """Write a model's tensors as transformers names them: one file, or several and their index.

    Args:
        largest: bytes of tensors in one file at the most, unless a single one has more.
        tick: hears of every tensor.

    Returns:
        The files of tensors.

    Raises:
        OSError: if they cannot be written.
    """
    shards = _split(tensors, largest)
    done = 0

    def heard(name: str) -> None:
        nonlocal done
        tick("writing", done, len(tensors), name)
        done += 1

    if len(shards) == 1:
        path = folder / "model.safetensors"
        write_file(path, shards[0], heard=heard)
        return [path]
    paths: list[Path] = []
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_file(path, shard, heard=heard)
        paths.append(path)
        places |= {tensor.name: path.name for tensor in shard}
    total = sum(tensor.bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return paths


def write_file(
    path: Path,
    tensors: Sequence[Stored],
    metadata: dict[str, str] | None = None,
    heard: Callable[[str], None] = lambda _name: None,
) -> None:
    """Write one safetensors file; `heard` is told each tensor before it is made.

    Raises:
        OSError: if it cannot be written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    start = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.bytes],
        }
        start += tensor.bytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors:
            heard(tensor.name)
            file.write(raw(tensor).data)


def raw(tensor: Stored) -> np.ndarray:
    """Make a tensor and return its bytes, in the order of the format."""
    made = tensor.make().detach()
    assert tuple(made.shape) == tensor.shape
    assert made.dtype == tensor.dtype
    flat = made.to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()


def _split(tensors: Sequence[Stored], largest: int) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.bytes > largest:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.bytes
    return shards
