"""Wanda: the size of a weight times the size of its input.

    S_ij = |W_ij| * ||X_j||_2,   ||X_j||_2^2 = 1/N sum_sequences sum_tokens x_j^2

The weights of a row (one output) compete with each other; for n:m, runs of m inputs of a row. The
weight-sum variant removes of every row the smallest scores that together make up the same fraction
of the row's sum, found by bisection, so that rows lose unequal numbers of weights.

Source: Wanda (arXiv 2306.11695, ICLR 2024), section 3, equation 1; the variant is in its appendix.
Assumes that one output's weights can be judged by themselves, without what the others make up for.
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

WITHIN = 1e-3
"""The variant's bisection ends this near to the asked sparsity, or when it has so little left."""


def scores(matrix: Matrix) -> torch.Tensor:
    """Return the score of every weight, fp32 [out, in]."""
    assert matrix.norms is not None
    return matrix.weight.abs() * matrix.norms.sqrt()


def thin(matrix: Matrix, cut: Cut, settings: Settings) -> Thinned:
    """Return the matrix without the weights of the lowest scores."""
    metric = scores(matrix)
    if settings["variant"] and not cut.m:
        return thinned(matrix.weight, _by_share_of_sum(metric, cut.sparsity))
    return thinned(matrix.weight, lowest_of_rows(metric, cut))


def _by_share_of_sum(metric: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Return the mask of each row's smallest scores up to one share of the row's sum.

    The share is searched between 0 and 0.8, from 0.4, as the authors do.
    """
    ordered, order = torch.sort(metric, dim=1, stable=True)
    sums = ordered.cumsum(1)
    whole = metric.sum(1, keepdim=True)
    low, high, share = 0.0, 0.8, 0.4
    below = sums <= whole * share
    while abs(float(below.float().mean()) - sparsity) > WITHIN and high - low >= WITHIN:
        if float(below.float().mean()) > sparsity:
            share, high = (share + low) / 2, share
        else:
            share, low = (share + high) / 2, share
        below = sums <= whole * share
    return torch.zeros_like(below).scatter_(1, order, below)


register(
    Estimator(
        name="wanda",
        title="Wanda",
        grain=Grain.FINE,
        needs=Needs.ACTIVATIONS,
        summary="A weight's size times the norm of its input, row by row.",
        formula="|W_ij|·‖X_j‖₂",
        source="Wanda, arXiv 2306.11695, section 3, equation 1",
        weights=WeightMethod(thin, frozenset({Statistic.NORMS})),
        parameters=(
            PREFIX,
            Parameter(
                "variant",
                False,
                "Remove the same share of every row's sum of scores, not the same number.",
            ),
        ),
    )
)
