"""One matrix's gradient against the same sums made naively, in fp64 and all at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.calibration import reduction
from pruning_core.calibration.reduction import TILES, Reduced, reduce_gradient, tile_edge

SHAPES = [(1, 1), (1, 40), (40, 1), (7, 13), (64, 65), (127, 3), (130, 66), (67, 131), (192, 128)]


def naive(
    weight: torch.Tensor, gradient: torch.Tensor, axis: int, grid: torch.Size
) -> dict[str, torch.Tensor]:
    """Return the definition, fp64, tile by tile."""
    e = weight.double() * gradient.double()
    curved = (e - e * e / 2).abs()
    tiles = {
        name: torch.empty(grid, dtype=torch.float64)
        for name in ("tile_signed", "tile_fine", "tile_peak")
    }
    for i, rows in enumerate(e.chunk(grid[0])):
        for j, tile in enumerate(rows.chunk(grid[1], dim=1)):
            curved_tile = (tile - tile * tile / 2).abs()
            tiles["tile_signed"][i, j] = tile.sum()
            tiles["tile_fine"][i, j] = curved_tile.sum()
            tiles["tile_peak"][i, j] = curved_tile.max()
    return {"signed": e.sum(1 - axis), "fine": curved.sum(1 - axis), **tiles}


def check(reduced: Reduced, expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Signed sums cancel, so their error is held against the sum of absolute values."""
    scales = {"signed": "fine", "tile_signed": "tile_fine"}
    for name, value in expected.items():
        found = getattr(reduced, name)
        assert found.dtype == torch.float32
        assert found.shape == value.shape
        bound = tolerance * (expected[scales.get(name, name)].abs() + 1)
        assert ((found - value).abs() <= bound).all(), name


@pytest.mark.parametrize("block", [None, 1, 100, 3000])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition_whatever_the_shape_and_the_block(
    shape: tuple[int, int], axis: int, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block:
        monkeypatch.setattr(reduction, "CPU_BLOCK", block)
    draw = torch.Generator().manual_seed(shape[0] * 1000 + shape[1])
    weight, gradient = torch.randn(2, *shape, generator=draw)
    reduced = reduce_gradient(weight, gradient, axis)
    check(reduced, naive(weight, gradient, axis, reduced.tile_fine.shape), 1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_that_fp32_holds_come_out_exactly(shape: tuple[int, int], axis: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, gradient = torch.randint(-3, 4, (2, *shape), generator=draw).float()
    reduced = reduce_gradient(weight, gradient, axis)
    for name, value in naive(weight, gradient, axis, reduced.tile_fine.shape).items():
        assert torch.equal(getattr(reduced, name).double(), value), name


def test_worked_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    gradient = torch.tensor([[1.0, -1.0], [3.0, 0.0]])
    # e = [[1, -2], [-3, 0]] and |e - e^2/2| = [[0.5, 4], [7.5, 0]]
    rows, columns = (reduce_gradient(weight, gradient, axis) for axis in (0, 1))
    assert rows.signed.tolist() == [-1, -3]
    assert rows.fine.tolist() == [4.5, 7.5]
    assert columns.signed.tolist() == [-2, -2]
    assert columns.fine.tolist() == [8, 4]
    assert rows.tile_signed.tolist() == [[1, -2], [-3, 0]]
    assert rows.tile_fine.tolist() == rows.tile_peak.tolist() == [[0.5, 4], [7.5, 0]]


@pytest.mark.parametrize("axis", [0, 1])
def test_bf16_is_summed_in_fp32(axis: int) -> None:
    draw = torch.Generator().manual_seed(3)
    weight, gradient = torch.randn(2, 96, 1024, generator=draw).bfloat16()
    reduced = reduce_gradient(weight, gradient, axis)
    check(reduced, naive(weight, gradient, axis, reduced.tile_fine.shape), 1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_inputs_stay_as_they_are(axis: int) -> None:
    weight, gradient = torch.randn(2, 33, 17)
    before = weight.clone(), gradient.clone()
    reduce_gradient(weight, gradient, axis)
    assert torch.equal(weight, before[0])
    assert torch.equal(gradient, before[1])


@given(st.integers(1, 20_000))
@settings(deadline=None)
def test_tiles_are_equal_and_as_many_as_allowed(length: int) -> None:
    edge = tile_edge(length)
    assert length % edge == 0
    assert length // edge <= TILES
    finer = [e for e in range(1, edge) if length % e == 0]
    assert all(length // e > TILES for e in finer)
