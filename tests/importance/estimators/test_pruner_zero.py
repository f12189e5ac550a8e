from __future__ import annotations

import pytest
import torch

from tests.importance.estimators.weight_cases import CUTS, golden_matrix, mask, run


@pytest.mark.parametrize("cut", ["unstructured_50", "2_4"])
def test_golden_masks(cut: str) -> None:
    result = run("pruner-zero", golden_matrix(), CUTS[cut])
    assert torch.equal(result.removed, mask("pruner_zero", f"mask_{cut}"))
