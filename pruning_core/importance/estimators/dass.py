"""DaSS: weights of gated MLPs judged by the intermediate neuron they belong to.

With Y the input of the down projection (``act(gate x) * up x``) and
``||Y_i||_2^2 = 1/N sum_sequences sum_tokens Y_i^2``:

    gate, up   S_ij = |W_ij| * ||Y_i||_2^0.5    the I outputs i of one input j compete
    down       S_ij = |W_ij| * ||Y_j||_2        the I inputs j of one output i compete

In all three matrices weights compete along the intermediate axis (for n:m, runs of m along it), so
that the masks line up with neurons. Were the rows of gate and up compared instead, the norm, one
number a row, would cancel and leave magnitude. Attention stays dense, as the authors leave it.

Source: DaSS (arXiv 2405.01943, TMLR 2025); the comparison groups follow the authors' code, the
paper's full text was not at hand. Assumes a gated MLP; where there is no gate the formula of up
serves. Kernels for 2:4 sparsity want it along the inputs: for gate and up it lies across.
"""

from __future__ import annotations

import torch

from pruning_core.importance.registry import PREFIX, Estimator, Grain, Needs, Settings, register
from pruning_core.importance.weights import (
    Cut,
    Matrix,
    Statistic,
    Thinned,
    WeightMethod,
    lowest_of_columns,
    lowest_of_rows,
    thinned,
)
from pruning_core.recipe import SiteKind


def scores(matrix: Matrix) -> torch.Tensor:
    """Return the score of every weight, fp32 [out, in]."""
    assert matrix.channels is not None
    if matrix.axis == 1:
        return matrix.weight.abs() * matrix.channels.sqrt()
    # A fused projection holds every channel more than once: gate rows, then up rows.
    repeats = len(matrix.weight) // len(matrix.channels)
    return matrix.weight.abs() * matrix.channels.repeat(repeats)[:, None] ** 0.25


def thin(matrix: Matrix, cut: Cut, _settings: Settings) -> Thinned:
    """Return the matrix without the weights of the lowest scores."""
    assert matrix.channels is not None
    metric = scores(matrix)
    if matrix.axis == 1:
        return thinned(matrix.weight, lowest_of_rows(metric, cut))
    parts = metric.split(len(matrix.channels))
    return thinned(matrix.weight, torch.cat([lowest_of_columns(part, cut) for part in parts]))


register(
    Estimator(
        name="dass",
        title="DaSS",
        grain=Grain.FINE,
        needs=Needs.ACTIVATIONS,
        summary="MLP weights by the intermediate neuron they belong to; attention stays dense.",
        formula="gate, up: |W_ij|·‖Y_i‖₂^½; down: |W_ij|·‖Y_j‖₂",
        source="DaSS, arXiv 2405.01943, TMLR 2025 (comparison groups after the authors' code)",
        weights=WeightMethod(thin, frozenset({Statistic.NORMS}), frozenset({SiteKind.MLP})),
        parameters=(PREFIX,),
    )
)
