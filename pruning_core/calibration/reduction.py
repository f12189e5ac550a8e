"""One matrix's gradient, reduced to what importance maps need the moment it exists.

With ``e = w * dL/dw`` for every weight of a matrix, one sweep yields

* per slice along the coupled axis (a row of ``gate_proj``, a column of ``down_proj``):
  ``sum e`` and ``sum |e - e^2/2|``, exact, in fp32;
* per tile of the matrix: the same two sums and the largest ``|e - e^2/2|``.

The sweep goes through blocks of rows, so that its working space stays small beside the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TILES = 64
"""At most this many tiles along an axis."""

CPU_BLOCK = 1 << 20
ACCELERATOR_BLOCK = 1 << 24
"""Weights in a block. Smaller ones would fit the nearest cache, but each step of each block makes
all threads meet, and on a busy machine that waiting costs more than the memory does."""


@dataclass(frozen=True)
class Reduced:
    """What is left of one matrix's gradient.

    Attributes:
        signed: fp32 [slices], ``sum e`` over each slice.
        fine: fp32 [slices], ``sum |e - e^2/2|`` over each slice.
        tile_signed: fp32 [tile rows, tile columns], sums over tiles.
        tile_fine: the same for ``|e - e^2/2|``.
        tile_peak: the largest ``|e - e^2/2|`` of each tile.
    """

    signed: torch.Tensor
    fine: torch.Tensor
    tile_signed: torch.Tensor
    tile_fine: torch.Tensor
    tile_peak: torch.Tensor


def tile_edge(length: int) -> int:
    """Return the edge of a tile along an axis: the smallest divisor that makes at most `TILES`."""
    least = -(-length // TILES)
    return next(edge for edge in range(least, length + 1) if length % edge == 0)


def reduce_gradient(weight: torch.Tensor, gradient: torch.Tensor, axis: int) -> Reduced:
    """Reduce a gradient against its weight, both [out, in], along the coupled axis."""
    rows, columns = weight.shape
    height, width = tile_edge(rows), tile_edge(columns)
    tile_rows, tile_columns = rows // height, columns // width
    device = weight.device
    signed = torch.empty(weight.shape[axis], device=device)
    fine = torch.empty(weight.shape[axis], device=device)
    # Over the rows of a tile first, then over what is left: one reduction over both is ten times
    # slower.
    down = torch.empty(3, tile_rows, columns, device=device)

    budget = CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK
    step = max(budget // (height * columns), 1)
    buffer = torch.empty(2, min(step, tile_rows) * height, columns, device=device)
    for top in range(0, tile_rows, step):
        here = slice(top, min(top + step, tile_rows))
        block = slice(here.start * height, here.stop * height)
        e, curved = buffer[:, : block.stop - block.start]
        e.copy_(weight[block])
        e.mul_(curved.copy_(gradient[block]))
        torch.mul(e, e, out=curved)
        torch.add(e, curved, alpha=-0.5, out=curved).abs_()
        torch.sum(e.view(-1, height, columns), 1, out=down[0, here])
        torch.sum(curved.view(-1, height, columns), 1, out=down[1, here])
        torch.amax(curved.view(-1, height, columns), 1, out=down[2, here])
        if axis == 0:
            torch.sum(e, 1, out=signed[block])
            torch.sum(curved, 1, out=fine[block])
    if axis == 1:
        torch.sum(down[0], 0, out=signed)
        torch.sum(down[1], 0, out=fine)
    across = down.view(3, tile_rows, tile_columns, width)
    sums, peak = across[:2].sum(-1), across[2].amax(-1)
    return Reduced(signed, fine, sums[0], sums[1], peak)
