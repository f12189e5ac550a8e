"""Pruner-Zero: the formula that a genetic search found, a weight's square times its gradient.

    S_ij = |W_ij| * |W_ij| * minmax(G_ij),   G = sqrt(sum_samples (dL/dW)^2)

minmax maps a matrix's smallest G to 0 and its largest to 1. The weights of a row compete; for n:m,
runs of m inputs.

Source: Pruner-Zero (arXiv 2406.02924, ICML 2024), the symbolic tree its authors publish. Its
authors gather G on WikiText-2, on which they also measure; here it is gathered on the recipe's own
calibration text. G is that of the dense model throughout.
"""

from __future__ import annotations

import torch

from pruning_core.importance.registry import Estimator, Grain, Needs, Settings, register
from pruning_core.importance.weights import (
    Cut,
    Matrix,
    Statistic,
    Thinned,
    WeightMethod,
    lowest_of_rows,
    thinned,
)


def scores(matrix: Matrix) -> torch.Tensor:
    """Return the score of every weight, fp32 [out, in]; a matrix with equal gradients scores 0."""
    assert matrix.gradient is not None
    least, most = matrix.gradient.aminmax()
    scale = (matrix.gradient - least) / (most - least).clamp_min(torch.finfo(torch.float32).tiny)
    return matrix.weight.abs() * matrix.weight.abs() * scale


def thin(matrix: Matrix, cut: Cut, _settings: Settings) -> Thinned:
    """Return the matrix without the weights of the lowest scores."""
    return thinned(matrix.weight, lowest_of_rows(scores(matrix), cut))


register(
    Estimator(
        name="pruner-zero",
        title="Pruner-Zero",
        grain=Grain.FINE,
        needs=Needs.GRADIENTS,
        summary="A weight's square times its gradient, scaled over the matrix: found by search.",
        formula="|W_ij|²·minmax(G_ij)",
        source="Pruner-Zero, arXiv 2406.02924, ICML 2024",
        weights=WeightMethod(thin, frozenset({Statistic.GRADIENT})),
    )
)
