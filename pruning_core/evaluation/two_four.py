"""What 2:4 sparsity gains where hardware can skip the zeros: measured, matrix by matrix.

NVIDIA GPUs from Ampere on multiply a matrix of which two in every four weights are zero on units
made for it, if it is stored compressed. torch does so with semi-structured tensors (cuSPARSELt, or
CUTLASS). The datasheets promise twice the speed; what comes of it depends on the shape and on how
many tokens are multiplied at once, so it is measured for the shapes of the model that is pruned.

Two ways of calling are timed. One by one, as stock eager code does: each call then also costs what
torch and the library do on the CPU before the GPU begins, which for small matrices is most of it.
And captured as a CUDA graph, where only the GPU's own work is left, as serving engines run it.

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

STEP = 64
"""Rows and columns of a weight that is compressed are multiples of it."""

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
        dense_ms, sparse_ms: milliseconds of one multiplication called by itself, the median of
            several.
        dense_captured_ms, sparse_captured_ms: the same inside a CUDA graph.
        error: largest difference between both products over the largest entry of the dense one.
    """

    shape: tuple[int, int]
    count: int
    tokens: int
    dense_ms: float
    sparse_ms: float
    dense_captured_ms: float
    sparse_captured_ms: float
    error: float

    @property
    def times(self) -> float:
        """How many times as fast as dense, called by itself: below 1 it is slower."""
        return self.dense_ms / self.sparse_ms

    @property
    def times_captured(self) -> float:
        """How many times as fast as dense inside a CUDA graph."""
        return self.dense_captured_ms / self.sparse_captured_ms


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
        shapes: [out, in]; those that are no multiples of `STEP` have no kernels and are left out.
        tokens: how many rows the other factor has, each a multiple of 8.
        device: a CUDA GPU of compute capability 8.0 or higher.
        dtype: one of `DTYPES`.

    Raises:
        PrunescopeError: the device or the dtype has no kernels for it.
        Cancelled: by `tick`.
    """
    if why := obstacle(device, dtype):
        raise PrunescopeError(why)
    gains = []
    fitting = {shape: n for shape, n in shapes.items() if not any(size % STEP for size in shape)}
    for done, (shape, count) in enumerate(fitting.items()):
        tick("timing 2:4", done, len(fitting), f"{shape[0]} x {shape[1]}")
        weight = _two_four(shape, device, dtype)
        compressed = to_sparse_semi_structured(weight)
        for rows in tokens:
            entering = torch.randn(rows, shape[1], device=device, dtype=dtype)
            dense, sparse = F.linear(entering, weight), F.linear(entering, compressed)
            error = float((dense - sparse).abs().max() / dense.abs().max())
            both = partial(F.linear, entering, weight), partial(F.linear, entering, compressed)
            times = _in_turns(*map(_repeated, both)) + _in_turns(*map(_captured, both))
            gains.append(Gain(shape, count, rows, *times, error))
    return gains


def obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Return why there are no kernels for 2:4 here; empty where there are."""
    if device.type != "cuda":
        return (
            f"2:4 sparsity is 0 % faster on {device.type}: only NVIDIA GPUs have units that skip "
            "its zeros. Measure on a machine with one."
        )
    if torch.cuda.get_device_capability(device) < (8, 0):
        return (
            f"2:4 sparsity is 0 % faster on {torch.cuda.get_device_name(device)}: units that skip "
            "its zeros came with compute capability 8.0 (Ampere)."
        )
    if dtype not in DTYPES:
        names = " or ".join(str(each).removeprefix("torch.") for each in DTYPES)
        return f"2:4 kernels are there for {names}, not {dtype}. Choose one of those."
    return ""


def _two_four(shape: tuple[int, int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return a random matrix whose two smallest of every four weights in a row are zero."""
    weight = torch.randn(shape, device=device, dtype=dtype)
    blocks = weight.view(-1, 4)
    blocks.scatter_(1, blocks.abs().topk(2, dim=1, largest=False).indices, 0)
    return weight


def _repeated(work: Callable[[], object]) -> Callable[[], None]:
    """Return what does a piece of work `_CALLS` times, call by call."""

    def run() -> None:
        for _ in range(_CALLS):
            work()

    return run


def _captured(work: Callable[[], object]) -> Callable[[], None]:
    """Return the same as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # what is set up on first use cannot be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_CALLS):
            work()
    return graph.replay


def _in_turns(one: Callable[[], None], other: Callable[[], None]) -> tuple[float, float]:
    """Return the median milliseconds of a call of both, taken in turns as clocks drift for both."""
    times: tuple[list[float], list[float]] = ([], [])
    for work in (one, other):
        work()
    for _ in range(_LOOKS):
        for work, found in zip((one, other), times, strict=True):
            found.append(_milliseconds(work))
    return statistics.median(times[0]), statistics.median(times[1])


def _milliseconds(work: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / _CALLS
