"""SparseGPT: weights leave where least error is made, and those that stay make up for it.

    H = 2/N sum_sequences X X^T + damping * mean(diag H) * I,   U = upper Cholesky factor of H^-1
    S_ij = W_ij^2 / U_jj^2

Columns are walked from the first to the last in blocks. At each block the lowest scores of all its
rows jointly are chosen (for n:m, the n lowest of every m inputs of a row, when the walk reaches
them, so with the weights as updated so far); then column by column the error
``(w - 0) / U_jj`` is passed on to the columns to the right along U.

Source: SparseGPT (arXiv 2301.00774, ICML 2023), algorithm 1. A block is the extent in which rows
compete: with ``threshold = inclusive`` each block loses one weight more, as in the authors' code.
Inputs that are always zero lose their weights outright. Assumes that the layer's output on the
calibration text is what matters.
"""

from __future__ import annotations

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.registry import (
    PREFIX,
    THRESHOLD,
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
    lowest_of_matrix,
    lowest_of_rows,
)


def thin(matrix: Matrix, cut: Cut, settings: Settings) -> Thinned:
    """Return the matrix with its lowest weights removed and the others updated.

    Raises:
        PrunescopeError: if the moments cannot be inverted even with the damping.
    """
    assert matrix.hessian is not None
    hessian = matrix.hessian.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    weight = matrix.weight.masked_fill(dead, 0.0)
    upper = inverse_factor(hessian, float(settings["damping"]), matrix.name)

    size = int(settings["block"])
    if cut.m:
        size = -(-size // cut.m) * cut.m
    inclusive = settings["threshold"] == "inclusive"
    removed = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, weight.shape[1], size):
        here = slice(start, start + size)
        errors = _thin_block(weight[:, here], removed[:, here], upper[here, here], cut, inclusive)
        weight[:, here.stop :] -= errors @ upper[here, here.stop :]
    return Thinned(weight, removed)


def inverse_factor(hessian: torch.Tensor, damping: float, name: str) -> torch.Tensor:
    """Return U, the upper Cholesky factor of the inverse of the damped moments, fp32 [in, in].

    Args:
        hessian: fp32 [in, in], no zero on its diagonal.
        damping: what is added to the diagonal, as a fraction of its mean.
        name: of the matrix, for the error.

    Raises:
        PrunescopeError: if it cannot be inverted.
    """
    damped = hessian.clone()
    damped.diagonal().add_(damping * hessian.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(damped)
    if not failed:
        factor, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    if failed or not factor.isfinite().all():
        raise PrunescopeError(
            f"The input moments of {name} cannot be inverted. Raise the damping above {damping}, "
            "or calibrate on more windows."
        )
    return factor


def _thin_block(
    weight: torch.Tensor, removed: torch.Tensor, upper: torch.Tensor, cut: Cut, inclusive: bool
) -> torch.Tensor:
    """Thin a block of columns in place; return the errors that those to its right must take up.

    Args:
        weight: fp32 [out, columns], becomes the thinned and updated block.
        removed: bool [out, columns], becomes the block's mask.
        upper: fp32 [columns, columns], the block of U on the diagonal.
    """
    diagonal = upper.diagonal()
    if not cut.m:
        scores = weight.square() / diagonal.square()
        removed.copy_(lowest_of_matrix(scores, cut, inclusive=inclusive))
    # Turned over, so that a column lies in one piece: the loop is ten times as fast.
    turned, gone = weight.T.contiguous(), removed.T.contiguous()
    errors = torch.empty_like(turned)
    for column in range(len(turned)):
        if cut.m and column % cut.m == 0:
            run = slice(column, column + cut.m)
            scores = (turned[run] / diagonal[run, None]).square().T
            gone[run] = lowest_of_rows(scores, cut).T
        kept = turned[column].masked_fill(gone[column], 0.0)
        torch.sub(turned[column], kept, out=errors[column]).div_(diagonal[column])
        turned[column + 1 :].addr_(upper[column, column + 1 :], errors[column], alpha=-1)
        turned[column] = kept
    weight.copy_(turned.T)
    removed.copy_(gone.T)
    return errors.T


register(
    Estimator(
        name="sparsegpt",
        title="SparseGPT",
        grain=Grain.FINE,
        needs=Needs.ACTIVATIONS,
        summary="Removes where least error is made and lets the weights that stay make up for it.",
        formula="W_ij²/U_jj², UᵀU = (2/N·Σ XXᵀ + λI)⁻¹, with weight update",
        source="SparseGPT, arXiv 2301.00774, ICML 2023, algorithm 1",
        weights=WeightMethod(thin, frozenset({Statistic.HESSIAN})),
        parameters=(
            PREFIX,
            Parameter("damping", 0.01, "Added to the diagonal, over its mean.", 0.0, 10.0),
            Parameter("block", 128, "Columns in a block, in which all rows compete.", 1, 65_536),
            THRESHOLD,
        ),
    )
)
