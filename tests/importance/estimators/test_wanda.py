from __future__ import annotations

import pytest
import torch

from pruning_core.importance.estimators.wanda import scores
from tests.golden import vectors
from tests.importance.estimators.weight_cases import CUTS, golden_matrix, mask, run


def test_golden_statistics_and_scores() -> None:
    golden, matrix = vectors.case("wanda"), golden_matrix()
    torch.testing.assert_close(matrix.norms, golden["scaler_row"], rtol=1e-5, atol=0)
    torch.testing.assert_close(scores(matrix), golden["metric"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("cut", CUTS)
def test_golden_masks(cut: str) -> None:
    matrix = golden_matrix()
    result = run("wanda", matrix, CUTS[cut])
    assert torch.equal(result.removed, mask("wanda", f"mask_{cut}"))
    assert torch.equal(result.weight, matrix.weight.masked_fill(result.removed, 0))


def test_golden_mask_with_dead_inputs_leaves_in_index_order() -> None:
    result = run("wanda", golden_matrix(dead=True), CUTS["unstructured_50"])
    assert torch.equal(result.removed, mask("wanda", "mask_unstructured_50_dead"))


def test_golden_variant() -> None:
    result = run("wanda", golden_matrix(), CUTS["unstructured_50"], variant=True)
    assert torch.equal(result.removed, mask("wanda", "mask_variant_50"))
