"""Ridge regression against plain least squares, row by row."""

from __future__ import annotations

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.planning.ridge import under_masks, without_inputs

TOKENS, IN, OUT = 400, 24, 10


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs [tokens, in] that depend on each other, and a matrix [out, in]."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(IN, IN, generator=draw) * torch.logspace(0, -1.5, IN)[:, None]
    inputs = torch.randn(TOKENS, IN, generator=draw) @ mixing
    return inputs, torch.randn(OUT, IN, generator=draw)


def least_squares(
    inputs: torch.Tensor, weight: torch.Tensor, kept: torch.Tensor, damping: float
) -> torch.Tensor:
    """Solve the stacked system: outputs met, and the weights that stay near where they were."""
    wide = inputs.double()
    ridge = damping * (wide.T @ wide).diagonal().mean()
    count = len(kept)
    pull = torch.eye(count, dtype=torch.float64) * ridge.sqrt()
    system = torch.cat((wide[:, kept], pull))
    targets = torch.cat((wide @ weight.T.double(), pull @ weight[:, kept].T.double()))
    return torch.linalg.lstsq(system, targets).solution.T


@pytest.mark.parametrize("damping", [1e-4, 0.01, 1.0])
def test_whole_inputs_leave(problem: tuple[torch.Tensor, torch.Tensor], damping: float) -> None:
    inputs, weight = problem
    kept = torch.tensor([0, 3, 4, 5, 9, 11, 17, 20, 23])
    found = without_inputs(weight, inputs.T @ inputs, kept, damping, "w")
    assert found.dtype == torch.float32
    expected = least_squares(inputs, weight, kept, damping)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("damping", [1e-3, 0.01, 1.0])
def test_single_weights_leave(problem: tuple[torch.Tensor, torch.Tensor], damping: float) -> None:
    inputs, weight = problem
    stays = torch.rand(OUT, IN, generator=torch.Generator().manual_seed(1)) < 0.5
    stays[0] = True
    stays[1] = False
    found = under_masks(weight, inputs.T @ inputs, stays, damping, "w")
    assert bool((found[~stays] == 0).all())
    torch.testing.assert_close(found[0], weight[0])
    for row in range(2, OUT):
        kept = stays[row].nonzero()[:, 0]
        expected = least_squares(inputs, weight[row : row + 1], kept, damping)[0]
        torch.testing.assert_close(found[row, kept].double(), expected, rtol=0.01, atol=1e-3)


def test_the_start_changes_nothing(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, weight = problem
    products = inputs.T @ inputs
    stays = torch.rand(OUT, IN, generator=torch.Generator().manual_seed(1)) < 0.5
    start = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(2)) * stays
    torch.testing.assert_close(
        under_masks(weight, products, stays, 0.01, "w"),
        under_masks(weight, products, stays, 0.01, "w", start=start),
        rtol=1e-2,
        atol=1e-3,
    )


def test_the_scale_of_the_products_changes_nothing(
    problem: tuple[torch.Tensor, torch.Tensor],
) -> None:
    inputs, weight = problem
    kept, products = torch.arange(0, IN, 2), inputs.T @ inputs
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(
            without_inputs(weight, products * factor, kept, 0.01, "w"),
            without_inputs(weight, products, kept, 0.01, "w"),
        )


def test_what_stands_in_exactly_takes_over_all_of_it() -> None:
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    inputs[:, 5] = 2 * inputs[:, 1]
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    kept = torch.arange(5)
    found = without_inputs(weight, inputs.T @ inputs, kept, 1e-6, "w")
    torch.testing.assert_close(inputs[:, kept] @ found.T, inputs @ weight.T, rtol=1e-3, atol=1e-3)


def test_all_kept_is_the_matrix_itself(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs, weight = problem
    found = without_inputs(weight, inputs.T @ inputs, torch.arange(IN), 0.01, "w")
    assert torch.equal(found, weight)


def test_inputs_that_are_never_there_do_no_harm() -> None:
    weight, dead = torch.randn(3, 6), torch.zeros(6, 6)
    kept = torch.tensor([0, 1, 2])
    assert torch.equal(without_inputs(weight, dead, kept, 0.01, "w"), weight[:, :3])
    stays = torch.zeros(3, 6, dtype=torch.bool)
    stays[:, :3] = True
    assert torch.equal(under_masks(weight, dead, stays, 0.01, "w"), weight * stays)


def test_what_cannot_be_solved_says_what_to_do() -> None:
    broken = torch.full((4, 4), float("nan"))
    with pytest.raises(PrunescopeError, match="What enters w cannot be solved for. Raise"):
        without_inputs(torch.randn(2, 4), broken, torch.tensor([0, 1]), 0.01, "w")
