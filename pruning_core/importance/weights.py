"""Weight-level pruning: what a method sees of one matrix, and the cuts it can make.

A method (Wanda, SparseGPT, DaSS, ...) is a function from one matrix and its calibration statistics
to the matrix with weights set to zero. What competes with what is its own affair; the usual ways
are here: every row by itself, every column by itself, the whole matrix, and for ``n:m`` runs of m
along either axis. Of equal scores the lower index leaves first, as in a stable ascending sort.

Shapes: matrices are [out, in], ``y = W x``, in fp32; masks are bool, True where a weight leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Pattern, PatternKind, Scalar, SiteKind


class Statistic(StrEnum):
    """What a method wants to know of a matrix beside its weights.

    NORMS: how large its inputs are. HESSIAN: their second moments. GRADIENT: of the language-model
    loss. REGIONAL: gradient of the norm of the layer's own output.
    """

    NORMS = "norms"
    HESSIAN = "hessian"
    GRADIENT = "gradient"
    REGIONAL = "regional"


@dataclass(frozen=True)
class Matrix:
    """One matrix as a weight-level method sees it; what it did not ask for is None.

    Attributes:
        name: the parameter's name from the model's root.
        weight: fp32 [out, in].
        norms: fp32 [in], ``s_j = 1/N sum_sequences sum_tokens x_j^2`` of its inputs.
        hessian: fp32 [in, in], ``2/N sum_sequences X X^T`` of its inputs.
        gradient: fp32 [out, in], root of the sum over samples of the squared gradient of the loss.
        regional: fp32 [out, in], root mean square over samples of d ||layer output||_2 / dW.
        channels: fp32 [channels], `norms` of the input of the MLP's down projection; in attention
            those of the output projection.
        axis: the axis of `weight` along which the channels lie; None where they lie along neither
            (key and value projections of grouped attention, which are not as wide).
    """

    name: str
    weight: torch.Tensor
    norms: torch.Tensor | None = None
    hessian: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    regional: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    axis: int | None = None


@dataclass(frozen=True)
class Cut:
    """How much of a matrix leaves.

    Attributes:
        sparsity: the fraction of its weights, for the unstructured pattern.
        n, m: of every m consecutive weights n leave; 0 for the unstructured pattern.
    """

    sparsity: float
    n: int = 0
    m: int = 0

    @classmethod
    def of(cls, pattern: Pattern, sparsity: float) -> Cut:
        """Return the cut that a pattern and a site's sparsity ask for."""
        if pattern.kind is PatternKind.N_OF_M:
            return cls(pattern.n / pattern.m, pattern.n, pattern.m)
        return cls(sparsity)


@dataclass(frozen=True)
class Thinned:
    """A matrix from which weights have left.

    Attributes:
        weight: fp32 [out, in], zero where removed; what is left may have been updated.
        removed: bool [out, in].
    """

    weight: torch.Tensor
    removed: torch.Tensor


Thin = Callable[[Matrix, Cut, Mapping[str, Scalar]], Thinned]


@dataclass(frozen=True)
class WeightMethod:
    """How an estimator prunes single weights.

    Attributes:
        thin: matrix, cut and settings in, thinned matrix out; writes nothing.
        statistics: what it wants to know of a matrix.
        sites: which sites it prunes; the other kind stays dense.
    """

    thin: Thin
    statistics: frozenset[Statistic] = frozenset()
    sites: frozenset[SiteKind] = frozenset(SiteKind)


def thinned(weight: torch.Tensor, removed: torch.Tensor) -> Thinned:
    """Return a matrix with the weights under a mask set to zero and the others as they are."""
    return Thinned(weight.masked_fill(removed, 0.0), removed)


def lowest_of_rows(scores: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return the mask of the lowest scores of every row, ``int(in * sparsity)`` of each.

    For n:m the n lowest of every m consecutive inputs.

    Raises:
        PrunescopeError: if the rows are no multiple of m long.
    """
    if cut.m:
        rows, columns = scores.shape
        if columns % cut.m:
            raise PrunescopeError(
                f"The pattern {cut.n}:{cut.m} needs runs of {cut.m} weights, and a matrix of this "
                f"model is {columns} weights wide: choose an m that divides {columns}."
            )
        blocks = scores.reshape(rows * (columns // cut.m), cut.m)
        return _lowest(blocks, cut.n).view(rows, columns)
    return _lowest(scores, int(scores.shape[1] * cut.sparsity))


def lowest_of_columns(scores: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return the mask of the lowest scores of every column; for n:m of m consecutive outputs.

    Raises:
        PrunescopeError: as `lowest_of_rows`.
    """
    return lowest_of_rows(scores.T, cut).T


def lowest_of_matrix(scores: torch.Tensor, cut: Cut, *, inclusive: bool = False) -> torch.Tensor:
    """Return the mask of the lowest scores of the whole matrix, ``int(numel * sparsity)`` of them.

    For n:m as `lowest_of_rows`: there the rows compete in runs anyway.

    Args:
        inclusive: as the code of Wanda, SparseGPT and RIA has it, every score up to and including
            the one at that place leaves: one more, and all that equal it.
    """
    if cut.m:
        return lowest_of_rows(scores, cut)
    count = int(scores.numel() * cut.sparsity)
    if inclusive and count < scores.numel():
        return scores <= scores.flatten().kthvalue(count + 1).values
    return _lowest(scores.reshape(1, -1), count).view_as(scores)


def _lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of exactly `count` lowest scores of every row."""
    order = torch.sort(scores, dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)
