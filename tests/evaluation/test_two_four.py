"""What 2:4 gains: shapes counted, machines without its kernels told so. The times: test_gpu."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.two_four import Gain, measure_gains, shapes_of
from pruning_core.model.anatomy import read_anatomy
from tests import tiny


def test_shapes_are_those_inside_the_layers() -> None:
    model = tiny.tiny_model()
    assert shapes_of(model, read_anatomy(model)) == Counter(
        {(72, 36): 3, (24, 36): 6, (36, 72): 3, (40, 36): 6, (36, 40): 3}
    )


def test_without_kernels_nothing_is_faster_and_that_is_said() -> None:
    with pytest.raises(PrunescopeError, match="0 % faster on cpu"):
        measure_gains(Counter({(64, 64): 1}), [8], torch.device("cpu"))


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [((7, 5), torch.bfloat16, "0 % faster on Old"), ((9, 0), torch.float32, "Choose one of those")],
)
def test_gpus_and_dtypes_without_kernels_are_refused(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Old")
    with pytest.raises(PrunescopeError, match=said):
        measure_gains(Counter({(64, 64): 1}), [8], torch.device("cuda"), dtype)


def test_times_are_of_dense() -> None:
    gain = Gain((64, 64), 1, 8, 3.0, 2.0, dense_captured_ms=1.0, sparse_captured_ms=2.0, error=0.0)
    assert (gain.times, gain.times_captured) == (1.5, 0.5)
