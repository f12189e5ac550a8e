"""Headers are read exactly, damage is found, fingerprints tell weights apart and nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning_core.errors import PrunescopeError
from pruning_core.model.headers import TensorSpan, fingerprint, read_gguf, read_safetensors
from tests.model import tiny_checkpoints as tiny


def test_a_safetensors_header_leads_to_the_tensors(tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m") / "model.safetensors"
    tensors = load_file(path)
    spans = read_safetensors(path)
    assert {span.name: span.shape for span in spans} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    for span in spans:
        raw = path.read_bytes()[span.start : span.start + span.length]
        assert raw == tensors[span.name].numpy().tobytes()


def test_a_gguf_header_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    path = tiny.save_gguf(tmp_path / "m.gguf", tiny.model())
    expected = [
        TensorSpan(
            tensor.name,
            tensor.tensor_type.name,
            tuple(int(axis) for axis in reversed(tensor.shape)),
            path,
            int(tensor.data_offset),
            int(tensor.n_bytes),
        )
        for tensor in gguf.GGUFReader(path).tensors
    ]
    assert read_gguf(path) == expected


def first_bytes(count: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:count]


def last_byte_lost(data: bytes) -> bytes:
    return data[:-1]


def zeroed(data: bytes) -> bytes:
    return bytes(len(data))


def noise(data: bytes) -> bytes:
    return data[:8] + b"\xff" * (len(data) - 8)


@pytest.mark.parametrize(
    "harm", [first_bytes(0), first_bytes(5), first_bytes(500), last_byte_lost, zeroed, noise]
)
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_a_damaged_file_is_told(tmp_path: Path, kind: str, harm: Callable[[bytes], bytes]) -> None:
    if kind == "gguf":
        path, read = tiny.save_gguf(tmp_path / "m.gguf", tiny.model()), read_gguf
    else:
        path, read = tiny.save(tmp_path / "m") / "model.safetensors", read_safetensors
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(PrunescopeError, match="damaged or was cut short|is not a GGUF"):
        read(path)


@pytest.mark.parametrize("at", range(24, 3000, 97))
def test_no_damaged_gguf_header_escapes_as_another_error(tmp_path: Path, at: int) -> None:
    """Eight bytes of the header overwritten with a huge number: refused, or harmless."""
    path = tiny.save_gguf(tmp_path / "m.gguf", tiny.model())
    data = bytearray(path.read_bytes())
    data[at : at + 8] = struct.pack("<Q", 2**62)
    path.write_bytes(data)
    spans = []
    with contextlib.suppress(PrunescopeError):
        spans = read_gguf(path)
    assert all(span.start + span.length <= len(data) for span in spans)


def test_a_shape_that_contradicts_the_size_is_told(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(PrunescopeError, match="the size of w contradicts its shape"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
@pytest.mark.parametrize("read", [read_safetensors, read_gguf])
def test_a_file_that_the_system_withholds_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Path], list[TensorSpan]],
    error: OSError,
    why: str,
) -> None:
    def withheld(*args: object) -> None:
        raise error

    monkeypatch.setattr(Path, "open", withheld)
    with pytest.raises(PrunescopeError, match=f"m can't be read: {why}. Check that it is"):
        read(tmp_path / "m")


@pytest.mark.parametrize("read", [read_safetensors, read_gguf])
def test_a_file_that_is_gone_or_a_folder_is_told(
    tmp_path: Path, read: Callable[[Path], list[TensorSpan]]
) -> None:
    with pytest.raises(PrunescopeError, match="can't be read: No such file"):
        read(tmp_path / "gone")
    with pytest.raises(PrunescopeError, match="can't be read: Is a directory"):
        read(tmp_path)


def test_a_disk_that_fails_while_a_header_is_read_is_not_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object) -> None:
        raise OSError(5, "Input/output error")

    path = tiny.save_gguf(tmp_path / "m.gguf", tiny.model())
    monkeypatch.setattr("pruning_core.model.headers._string", failing)
    with pytest.raises(PrunescopeError, match="can't be read: Input/output error"):
        read_gguf(path)


def test_weights_that_went_away_before_the_fingerprint_are_told(tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m") / "model.safetensors"
    spans = read_safetensors(path)
    path.unlink()
    with pytest.raises(PrunescopeError, match="can't be read: No such file"):
        fingerprint({}, spans)


def test_another_gguf_version_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    with pytest.raises(PrunescopeError, match="GGUF version 1"):
        read_gguf(path)


CONFIG: dict[str, object] = {"model_type": "llama", "rope_theta": 1e4}


def of_file(path: Path, config: dict[str, object] = CONFIG) -> str:
    return fingerprint(config, read_safetensors(path))


def test_a_fingerprint_does_not_depend_on_place_files_or_who_wrote_the_config(
    tmp_path: Path,
) -> None:
    path = tiny.save(tmp_path / "m") / "model.safetensors"
    known = of_file(path)
    assert len(known) == 16
    assert int(known, 16) >= 0
    copy = tmp_path / "copy.safetensors"
    shutil.copy(path, copy)
    assert of_file(copy) == known
    assert of_file(path, {**CONFIG, "transformers_version": "9", "_name_or_path": "x"}) == known

    tensors = load_file(path)
    halves = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[1::2]}, halves[0])
    save_file({name: tensors[name] for name in names[0::2]}, halves[1])
    assert (
        fingerprint(CONFIG, [*read_safetensors(halves[0]), *read_safetensors(halves[1])]) == known
    )


def test_a_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    path = tiny.save(tmp_path / "m") / "model.safetensors"
    known = of_file(path)
    assert of_file(path, {**CONFIG, "rope_theta": 1e6}) != known

    tensors = load_file(path)
    changed = tmp_path / "changed.safetensors"
    for name, tensor in tensors.items():
        save_file({**tensors, name: tensor + 0.01}, changed)
        assert of_file(changed) != known, name
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, changed)
    assert of_file(changed) != known
