from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pruning_core.calibration.moments import InputMoments
from pruning_core.importance.estimators.dass import scores
from pruning_core.importance.weights import Matrix
from tests.golden import vectors
from tests.importance.estimators.weight_cases import CUTS, mask, run


def golden(name: str) -> Matrix:
    case = vectors.case("dass")
    moments = InputMoments(160, torch.device("cpu"), hessian=False)
    for sequence in case["X"]:
        moments.add(F.silu(sequence @ case["gate_weight"].T) * (sequence @ case["up_weight"].T))
    axis = 1 if name == "down" else 0
    return Matrix(name, case[f"{name}_weight"], channels=moments.norms, axis=axis)


def test_golden_statistics_and_scores() -> None:
    case = vectors.case("dass")
    torch.testing.assert_close(golden("up").channels, case["down_scaler_row"], rtol=1e-5, atol=0)
    for name in ("up", "down"):
        torch.testing.assert_close(scores(golden(name)), case[f"{name}_metric"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("cut", ["unstructured_50", "2_4", "4_8"])
@pytest.mark.parametrize("name", ["gate", "up", "down"])
def test_golden_masks(name: str, cut: str) -> None:
    result = run("dass", golden(name), CUTS[cut])
    assert torch.equal(result.removed, mask("dass", f"{name}_mask_{cut}"))


@pytest.mark.parametrize("cut", CUTS)
def test_gate_and_up_in_one_matrix_are_cut_as_if_apart(cut: str) -> None:
    gate, up = golden("gate"), golden("up")
    both = Matrix("both", torch.cat((gate.weight, up.weight)), channels=gate.channels, axis=0)
    apart = torch.cat([run("dass", matrix, CUTS[cut]).removed for matrix in (gate, up)])
    assert torch.equal(run("dass", both, CUTS[cut]).removed, apart)


def test_every_input_of_gate_loses_the_same_number() -> None:
    removed = run("dass", golden("gate"), CUTS["unstructured_30"]).removed
    assert (removed.sum(0) == int(160 * 0.3)).all()
