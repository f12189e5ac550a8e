from __future__ import annotations

import pytest
import torch

from tests.importance.estimators.weight_cases import CUTS, golden_matrix, mask, run


@pytest.mark.parametrize("cut", ["unstructured_30", "unstructured_50", "2_4"])
def test_golden_masks(cut: str) -> None:
    result = run("magnitude", golden_matrix(), CUTS[cut], threshold="inclusive")
    assert torch.equal(result.removed, mask("magnitude", f"mask_{cut}"))


@pytest.mark.parametrize("cut", ["unstructured_30", "unstructured_50", "unstructured_70"])
def test_exactly_as_many_leave_as_asked(cut: str) -> None:
    result = run("magnitude", golden_matrix(), CUTS[cut])
    assert int(result.removed.sum()) == int(96 * 128 * CUTS[cut].sparsity)
