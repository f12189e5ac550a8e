"""Peak memory, on this machine and on machines that are not at hand."""

from __future__ import annotations

import mmap
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from pruning_core.peak import peak_memory, restart_peak


def test_peak_memory_is_told_where_there_is_no_resource_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123))
    monkeypatch.setattr(psutil, "Process", lambda: told)
    assert peak_memory()["main"] == 123


def test_peak_memory_counts_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 10**gpu)
    assert peak_memory()["gpu"] == 111


def test_a_gpu_that_nothing_uses_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the CPU of a machine with a GPU: torch refuses to answer before its first use."""

    def refuse(_gpu: int) -> int:
        raise RuntimeError("Invalid device argument")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", refuse)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", refuse)
    restart_peak()
    assert peak_memory()["gpu"] == 0


def test_without_a_gpu_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {*peak_memory()} == {"main"}
    assert peak_memory()["main"] > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the count cannot start anew")
def test_the_count_can_start_anew() -> None:
    restart_peak()
    before = peak_memory()["main"]
    # Memory of its own: an allocator would hand out what it has kept from earlier.
    with mmap.mmap(-1, 64_000_000) as pages:
        pages.write(bytes(1) * len(pages))
    after = peak_memory()["main"]
    assert after >= before + 50e6
    restart_peak()
    assert peak_memory()["main"] < after - 30e6
