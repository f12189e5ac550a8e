from __future__ import annotations

import pytest
import torch

from pruning_core.importance.estimators.ria import dealt_out, scores
from tests.golden import vectors
from tests.importance.estimators.weight_cases import CUTS, golden_matrix, mask, run

GOLDEN = {
    "mask_unstructured_50": ("unstructured_50", {"threshold": "inclusive"}),
    "mask_per_row_50": ("unstructured_50", {"compare": "rows"}),
    "mask_2_4": ("2_4", {}),
    "mask_2_4_reallocated": ("2_4", {"reallocation": True}),
}


def test_golden_scores() -> None:
    found = scores(golden_matrix(), 0.5)
    torch.testing.assert_close(found, vectors.case("ria")["metric"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("tensor", GOLDEN)
def test_golden_masks(tensor: str) -> None:
    cut, settings = GOLDEN[tensor]
    result = run("ria", golden_matrix(), CUTS[cut], **settings)
    assert torch.equal(result.removed, mask("ria", tensor))


def test_exactly_as_many_leave_as_asked() -> None:
    result = run("ria", golden_matrix(), CUTS["unstructured_50"])
    assert int(result.removed.sum()) == 96 * 128 // 2


def test_every_run_gets_inputs_of_every_rank() -> None:
    order = dealt_out(torch.arange(12.0)[None], 3)
    assert order.view(4, 3).tolist() == [[0, 7, 8], [1, 6, 9], [2, 5, 10], [3, 4, 11]]
