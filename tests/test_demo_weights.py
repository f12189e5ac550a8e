"""Single weights of a real model: every matrix of the demo, SparseGPT beside Wanda."""

from __future__ import annotations

import pytest
import torch

from pruning_core.calibration import Split, calibration_windows, load_text
from pruning_core.calibration.walk import Walk
from pruning_core.importance.registry import estimator
from pruning_core.importance.weights import Cut, Matrix
from pruning_core.model.anatomy import read_anatomy
from pruning_core.model.loading import load

pytestmark = pytest.mark.demo

CUTS = {"50 %": Cut(0.5), "2:4": Cut(0.5, 2, 4), "4:8": Cut(0.5, 4, 8)}


def error(matrix: Matrix, weight: torch.Tensor) -> float:
    """Return ``||(W - W') X||^2`` up to a factor, from the inputs' second moments."""
    assert matrix.hessian is not None
    change = (weight - matrix.weight).double()
    return float(((change @ matrix.hessian.double()) * change).sum())


def test_sparsegpt_makes_less_error_than_wanda_on_every_matrix() -> None:
    loaded = load("demo")
    model, anatomy = loaded.model, read_anatomy(loaded.model)
    windows = calibration_windows(
        load_text("embedded", Split.CALIBRATION), loaded.tokenizer, count=8, length=256, seed=0
    )
    walk = Walk(model, anatomy, windows)
    compared = 0
    for layer in range(anatomy.layers):
        linears = [linear for linear in anatomy.linears if linear.key.layer == layer]
        seen = walk.look(linears, hessian=True)
        for linear in linears:
            moments = seen[linear.tensor].moments
            weight = model.get_parameter(linear.tensor).float()
            matrix = Matrix(linear.tensor, weight, moments.norms, moments.hessian)
            # One pattern a matrix in turn: every matrix is held, and the test stays short.
            name, cut = list(CUTS.items())[compared % len(CUTS)]
            errors = {}
            for method in ("sparsegpt", "wanda"):
                found = estimator(method)
                assert found.weights is not None
                thinned = found.weights.thin(matrix, cut, found.settings({}))
                assert int(thinned.removed.sum()) == weight.numel() // 2, (linear.tensor, name)
                if cut.m:
                    blocks = thinned.removed.reshape(-1, cut.m)
                    assert (blocks.sum(1) == cut.n).all(), (linear.tensor, name)
                errors[method] = error(matrix, thinned.weight)
            assert errors["sparsegpt"] < errors["wanda"], (linear.tensor, name)
            compared += 1
        walk.step({})
    assert compared == len(anatomy.linears) == 210
