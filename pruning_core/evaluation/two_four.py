"""What 2:4 sparsity gains where hardware can skip the zeros: measured, matrix by matrix.

NVIDIA GPUs from Ampere on multiply a matrix of which two in every four weights are zero on units
made for it, if it is stored compressed. torch does so with semi-structured tensors (cuSPARSELt, or
CUTLASS). The datasheets promise twice the speed; what comes of it depends on the shape and on how
many tokens are multiplied at once, so it is measured for the shapes of the model that is pruned.

Nothing here changes a model: the figures say what a runtime with such kernels could gain.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.sparse import to_sparse_semi_structured

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy
from pruning_core.progress import Tick, silent

DTYPES = (torch.bfloat16, torch.float16)

_CALLS = 20
"""Multiplications between two looks at the clock."""

_LOOKS = 9


@dataclass(frozen=True)
class Gain:
    """One shape of matrix.

    Attributes:
        shape: rows and columns of the weight, [out, in].
        count: how many matrices of the model have it.
        tokens: rows that it is multiplied with at once.
        dense_ms, sparse_ms: milliseconds of one multiplication, the median of several.
        error: largest difference between both products over the largest entry of the dense one.
    """

    shape: tuple[int, int]
    count: int
    tokens: int
    dense_ms: float
    sparse_ms: float
    error: float

    @property
    def times(self) -> float:
        """How many times as fast as dense: 1 is no gain, below 1 it is slower."""
        return self.dense_ms / self.sparse_ms


def shapes_of(model: nn.Module, anatomy: Anatomy) -> Counter[tuple[int, int]]:
    """Return how many linear matrices of each shape [out, in] there are inside the layers."""
    return Counter(
        (linear.weight.shape[0], linear.weight.shape[1])
        for linear in model.get_submodule(anatomy.layers_path).modules()
        if isinstance(linear, nn.Linear)
    )


def measure_gains(
    shapes: Counter[tuple[int, int]],
    tokens: Sequence[int],
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    tick: Tick = silent,
) -> list[Gain]:
    """Multiply with random 2:4 matrices of every shape, dense and compressed, in turns.

    Args:
        shapes: [out, in], each a multiple of 64.
        tokens: how many rows the other factor has, each a multiple of 8.
        device: a CUDA GPU of compute capability 8.0 or higher.
        dtype: one of `DTYPES`.

    Raises:
        PrunescopeError: the device or the dtype has no kernels for it.
        Cancelled: by `tick`.
    """
    _demand(device, dtype)
    gains = []
    for done, (shape, count) in enumerate(shapes.items()):
        tick("timing 2:4", done, len(shapes), f"{shape[0]} x {shape[1]}")
        weight = _two_four(shape, device, dtype)
        compressed = to_sparse_semi_structured(weight)
        for rows in tokens:
            entering = torch.randn(rows, shape[1], device=device, dtype=dtype)
            dense, sparse = F.linear(entering, weight), F.linear(entering, compressed)
            error = float((dense - sparse).abs().max() / dense.abs().max())
            before, after = _in_turns(
                partial(F.linear, entering, weight), partial(F.linear, entering, compressed)
            )
            gains.append(Gain(shape, count, rows, before, after, error))
    return gains


def _demand(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cuda":
        raise PrunescopeError(
            f"2:4 sparsity is 0 % faster on {device.type}: only NVIDIA GPUs have units that skip "
            "its zeros. Measure on a machine with one."
        )
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise PrunescopeError(
            f"2:4 sparsity is 0 % faster on {torch.cuda.get_device_name(device)}: units that skip "
            "its zeros came with compute capability 8.0 (Ampere)."
        )
    if dtype not in DTYPES:
        names = " or ".join(str(each).removeprefix("torch.") for each in DTYPES)
        raise PrunescopeError(
            f"2:4 kernels are there for {names}, not {dtype}. Choose one of those."
        )


def _two_four(shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return a random matrix whose two smallest of every four weights in a row are zero."""
    weight = torch.randn(shape, device=device, dtype=dtype)
    blocks = weight.view(-1, 4)
    blocks.scatter_(1, blocks.abs().topk(2, dim=1, largest=False).indices, 0)
    return weight


def _in_turns(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Return the median milliseconds of both, taken in turns so that clocks drift for both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_LOOKS):
        for work, found in zip((one, other), times, strict=True):
            found.append(_milliseconds(work))
    return statistics.median(times[0]), statistics.median(times[1])


def _milliseconds(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    work()
    start.record()
    for _ in range(_CALLS):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / _CALLS
