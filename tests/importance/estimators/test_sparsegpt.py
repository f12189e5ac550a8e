from __future__ import annotations

import dataclasses

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.estimators.sparsegpt import inverse_factor
from tests.golden import vectors
from tests.importance.estimators.weight_cases import CUTS, golden_matrix, mask, run

WITH_WEIGHTS = [
    ("unstructured_50", 128),
    ("unstructured_50", 32),
    ("2_4", 128),
    ("2_4", 32),
]
MASKS_ONLY = [("4_8", 128), ("unstructured_70", 128)]


def golden(name: str) -> torch.Tensor:
    return vectors.case("sparsegpt")[name]


def test_golden_moments() -> None:
    matrix = golden_matrix()
    assert matrix.hessian is not None
    largest = float(golden("H").abs().max())
    torch.testing.assert_close(matrix.hessian, golden("H"), rtol=1e-4, atol=1e-5 * largest)
    upper = inverse_factor(matrix.hessian, 0.01, "golden")
    torch.testing.assert_close(upper.diagonal(), golden("Hinv_diag"), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("cut", "block"), WITH_WEIGHTS + MASKS_ONLY)
def test_golden_masks_and_weights(cut: str, block: int) -> None:
    result = run("sparsegpt", golden_matrix(), CUTS[cut], block=block, threshold="inclusive")
    assert torch.equal(result.removed, mask("sparsegpt", f"mask_{cut}_bs{block}"))
    if (cut, block) in WITH_WEIGHTS:
        expected = golden(f"weight_{cut}_bs{block}")
        torch.testing.assert_close(result.weight, expected, rtol=0, atol=1e-5)


def test_golden_weights_with_dead_inputs() -> None:
    matrix = golden_matrix(dead=True)
    result = run("sparsegpt", matrix, CUTS["unstructured_50"], threshold="inclusive")
    expected = mask("sparsegpt", "mask_unstructured_50_bs128_dead")
    assert int((result.removed != expected).sum()) <= 4
    agreed = result.removed == expected
    weights = golden("weight_unstructured_50_bs128_dead")
    torch.testing.assert_close(result.weight[agreed], weights[agreed], rtol=0, atol=1e-4)


@pytest.mark.parametrize("cut", CUTS)
def test_it_makes_less_error_than_wanda(cut: str) -> None:
    matrix = golden_matrix()
    inputs = vectors.case("linear_inputs")["X"].flatten(0, 1)

    def error(name: str) -> float:
        difference = run(name, matrix, CUTS[cut]).weight - matrix.weight
        return float((inputs @ difference.T).square().sum())

    assert error("sparsegpt") < error("wanda")


def test_what_leaves_is_zero_and_each_block_is_exact() -> None:
    result = run("sparsegpt", golden_matrix(), CUTS["unstructured_30"], block=32)
    assert (result.weight[result.removed] == 0).all()
    assert result.removed.view(96, 4, 32).sum((0, 2)).tolist() == [int(96 * 32 * 0.3)] * 4


def test_a_block_is_made_of_whole_runs() -> None:
    result = run("sparsegpt", golden_matrix(), CUTS["2_4"], block=6)
    assert (result.removed.view(96, 32, 4).sum(2) == 2).all()


def test_moments_that_cannot_be_inverted_are_refused() -> None:
    matrix = golden_matrix()
    assert matrix.hessian is not None
    flat = dataclasses.replace(matrix, hessian=torch.ones_like(matrix.hessian))
    with pytest.raises(PrunescopeError, match="Raise the damping"):
        run("sparsegpt", flat, CUTS["2_4"], damping=0.0)
