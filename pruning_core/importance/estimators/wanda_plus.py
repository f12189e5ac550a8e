"""Wanda++: Wanda's score with the gradient of the layer's own output beside the input norm.

    S_ij = (alpha * G_ij + ||X_j||_2) * |W_ij|,   alpha = 100
    G    = root mean square over samples of d ||layer(X)||_2 / dW

The weights of a row compete; for n:m, runs of m inputs.

Source: Wanda++ (arXiv 2503.04992), its regional gradient score. The regional optimisation that
follows the cut in the paper, five rounds of tuning the layer, is not done here: the authors' code
is not public, and the score is what is published in full. ``||X_j||_2`` is Wanda's.
"""

from __future__ import annotations

import torch

from pruning_core.importance.registry import (
    PREFIX,
    Estimator,
    Grain,
    Needs,
    Parameter,
    Settings,
    register,
)
from pruning_core.importance.weights import (
    Cut,
    Matrix,
    Statistic,
    Thinned,
    WeightMethod,
    lowest_of_rows,
    thinned,
)


def scores(matrix: Matrix, alpha: float) -> torch.Tensor:
    """Return the score of every weight, fp32 [out, in]."""
    assert matrix.norms is not None
    assert matrix.regional is not None
    return (alpha * matrix.regional + matrix.norms.sqrt()) * matrix.weight.abs()


def thin(matrix: Matrix, cut: Cut, settings: Settings) -> Thinned:
    """Return the matrix without the weights of the lowest scores."""
    return thinned(matrix.weight, lowest_of_rows(scores(matrix, float(settings["alpha"])), cut))


register(
    Estimator(
        name="wanda++",
        title="Wanda++ (score only)",
        grain=Grain.FINE,
        needs=Needs.GRADIENTS,
        summary="Wanda with the gradient of the layer's own output; without its optimisation.",
        formula="(α·G_ij + ‖X_j‖₂)·|W_ij|",
        source="Wanda++, arXiv 2503.04992 (regional gradient score)",
        weights=WeightMethod(thin, frozenset({Statistic.NORMS, Statistic.REGIONAL})),
        parameters=(
            PREFIX,
            Parameter("alpha", 100.0, "How much the gradient counts.", 0.0, 1e6),
        ),
    )
)
