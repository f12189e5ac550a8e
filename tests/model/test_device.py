"""Devices and dtypes are chosen from what there is."""

from __future__ import annotations

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.model.device import choose_device, choose_dtype

CPU = torch.device("cpu")


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int, metal: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)


@pytest.mark.parametrize(
    ("gpus", "metal", "expected"), [(2, True, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_auto_takes_the_best_there_is(
    monkeypatch: pytest.MonkeyPatch, gpus: int, metal: bool, expected: str
) -> None:
    machine(monkeypatch, gpus=gpus, metal=metal)
    assert choose_device("auto") == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch, gpus=2, metal=True)
    assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "gpus", "said"),
    [
        ("cuda", 0, "no CUDA GPU"),
        ("cuda:0", 0, "no CUDA GPU"),
        ("cuda:2", 2, "There is no GPU 2: this machine has 2"),
        ("mps", 0, "no Metal GPU"),
        ("cud", 1, "Did you mean 'cuda'"),
        ("cuda:x", 1, "Unknown device"),
        ("cpu:0", 1, "Unknown device"),
        ("", 1, "Unknown device"),
    ],
)
def test_a_device_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, gpus: int, said: str
) -> None:
    machine(monkeypatch, gpus=gpus, metal=False)
    with pytest.raises(PrunescopeError, match=said):
        choose_device(name)


def test_auto_is_bfloat16_on_the_cpu() -> None:
    assert choose_dtype("auto", CPU) is torch.bfloat16


@pytest.mark.parametrize(("new", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_never_float16(
    monkeypatch: pytest.MonkeyPatch, new: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: new)
    assert choose_dtype("auto", torch.device("mps")) is expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_auto_follows_the_gpus_bfloat16() -> None:
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    expected = torch.bfloat16 if native else torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is expected


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float64"])
def test_a_named_dtype_is_taken(name: str) -> None:
    assert choose_dtype(name, CPU) is getattr(torch, name)


@pytest.mark.parametrize(
    ("name", "device", "said"),
    [
        ("bf16", "cpu", "Did you mean 'bfloat16'|Unknown dtype"),
        ("int8", "cpu", "Unknown dtype 'int8'.*bfloat16"),
        ("float64", "mps", "float64"),
    ],
)
def test_a_dtype_that_can_not_be_used_is_told(name: str, device: str, said: str) -> None:
    with pytest.raises(PrunescopeError, match=said):
        choose_dtype(name, torch.device(device))
