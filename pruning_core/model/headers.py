"""Which tensors a weight file holds and where, read from its header alone.

Reads safetensors and GGUF, version 2 and 3. Finds files that are cut short or damaged before
anything large is read, and tells weights apart by a fingerprint. Reads no tensor but a few sampled
bytes of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from pruning_core.errors import PrunescopeError

# Bytes of a safetensors header; the format itself allows no more.
_HEADER_LIMIT = 100_000_000
_SAFETENSORS_BITS = {
    **{"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32},
    **{"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8},
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
# Bytes of a GGUF metadata value by its type code; 8 is a string and 9 an array.
_GGUF_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9
_GGUF_ALIGNMENT = 32
# No real file comes near these; a damaged one would have us read gigabytes.
_GGUF_STRING_LIMIT, _GGUF_AXES_LIMIT = 1 << 26, 8

_SAMPLES, _SAMPLE_BYTES = 16, 64


@dataclass(frozen=True)
class TensorSpan:
    """One tensor's place: ``TensorSpan("lm_head.weight", "BF16", (128, 32), path, 4096, 8192)``.

    Attributes:
        name: as the file has it.
        dtype: the format's own word for it.
        shape: slowest axis first.
        file: the file it is in.
        start: its first byte, counted from the start of the file.
        length: in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    length: int


def read_safetensors(path: Path) -> list[TensorSpan]:
    """Return the tensors of a safetensors file.

    Raises:
        PrunescopeError: the file can't be read, is damaged, or is shorter than its header says.
    """
    try:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _HEADER_LIMIT):
                raise _damaged(path, "its header runs past its end")
            header = json.loads(file.read(length))
        spans = []
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if (end - begin) * 8 != prod(shape) * _SAFETENSORS_BITS[entry["dtype"]]:
                raise _damaged(path, f"the size of {name} contradicts its shape")
            spans.append(
                TensorSpan(name, entry["dtype"], shape, path, 8 + length + begin, end - begin)
            )
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "its header can't be read") from error
    _demand_whole(path, spans, size)
    return spans


def read_gguf(path: Path) -> list[TensorSpan]:
    """Return the tensors of a GGUF file, in milliseconds: its metadata are skipped, not parsed.

    Raises:
        PrunescopeError: the file can't be read, is damaged, of another version, or shorter than its
            header says.
    """
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) != b"GGUF":
            raise PrunescopeError(f"{path} is not a GGUF file: it does not begin with 'GGUF'.")
        try:
            return _read_gguf_tensors(path, file, size)
        except (struct.error, ValueError, KeyError, ArithmeticError) as error:
            raise _damaged(path, "its header can't be read") from error


def fingerprint(config: dict[str, object], spans: Iterable[TensorSpan]) -> str:
    """Return 16 hex digits that identify a checkpoint's weights.

    They come from the config, every tensor's name, type and shape, and 1 kB sampled across each
    tensor's bytes. So they don't depend on the dtype or the device a model is loaded to, nor on how
    it is split into files; but they differ between a checkpoint and its GGUF, and two checkpoints
    that differ only in a few single weights may share them.

    Raises:
        PrunescopeError: a file can't be read.
    """
    # What wrote a config, and where it lay, say nothing about the model.
    told = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for span in sorted(spans, key=lambda span: span.name):
        digest.update(f"{span.name}|{span.dtype}|{span.shape}".encode())
        with _opened(span.file) as file:
            for sample in range(_SAMPLES):
                last = max(0, span.length - _SAMPLE_BYTES)
                file.seek(span.start + last * sample // (_SAMPLES - 1))
                digest.update(file.read(min(_SAMPLE_BYTES, span.length)))
    return digest.hexdigest()[:16]


def _read_gguf_tensors(path: Path, file: BinaryIO, size: int) -> list[TensorSpan]:
    version, tensors, entries = _unpack(file, "<IQQ")
    if version not in (2, 3):
        raise PrunescopeError(
            f"{path} is GGUF version {version}; versions 2 and 3 can be read. Convert it again "
            "with a current llama.cpp."
        )
    alignment = _GGUF_ALIGNMENT
    for _ in range(entries):
        key = _string(file)
        (kind,) = _unpack(file, "<I")
        if key == b"general.alignment":
            (alignment,) = _unpack(file, "<I")
        else:
            _skip_value(file, kind)
    table = []
    for _ in range(tensors):
        name = _string(file).decode()
        (axes,) = _unpack(file, "<I")
        if axes > _GGUF_AXES_LIMIT:
            raise ValueError("a tensor has too many axes")
        shape = tuple(reversed(_unpack(file, f"<{axes}Q")))  # the file has the fastest axis first
        kind, offset = _unpack(file, "<IQ")
        table.append((name, GGMLQuantizationType(kind), shape, offset))
    data = -(-file.tell() // alignment) * alignment
    spans = []
    for name, dtype, shape, offset in table:
        block, block_bytes = GGML_QUANT_SIZES[dtype]
        length = prod(shape) // block * block_bytes
        spans.append(TensorSpan(name, dtype.name, shape, path, data + offset, length))
    _demand_whole(path, spans, size)
    return spans


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _string(file: BinaryIO) -> bytes:
    (length,) = _unpack(file, "<Q")
    text = file.read(min(length, _GGUF_STRING_LIMIT))
    if len(text) < length:
        raise ValueError("a string runs past the end")
    return text


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _GGUF_STRING:
        _string(file)
    elif kind == _GGUF_ARRAY:
        element, count = _unpack(file, "<IQ")
        if element in _GGUF_VALUE_BYTES:
            _skip(file, count * _GGUF_VALUE_BYTES[element])
        else:
            for _ in range(count):
                _skip_value(file, element)
    else:
        _skip(file, _GGUF_VALUE_BYTES[kind])


def _skip(file: BinaryIO, count: int) -> None:
    try:
        file.seek(count, 1)
    except OSError as error:  # no file is that long
        raise ValueError("a value runs past the end") from error


def _demand_whole(path: Path, spans: list[TensorSpan], size: int) -> None:
    if not spans:
        raise _damaged(path, "it holds no tensors")
    end = max(span.start + span.length for span in spans)
    if end > size:
        raise _damaged(path, f"it has {size:,} bytes and its tensors reach to byte {end:,}")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; what the system has against that, or later against reading, is told."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise PrunescopeError(
            f"{path} can't be read: {error.strerror or error}. Check that it is still there and "
            "that you have the right to read it, or copy the checkpoint to a place where you have."
        ) from error


def _damaged(path: Path, why: str) -> PrunescopeError:
    return PrunescopeError(
        f"{path.name} is damaged or was cut short: {why}. Fetch or copy it again ({path})."
    )
