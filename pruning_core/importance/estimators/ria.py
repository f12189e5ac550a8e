"""RIA: how large a weight is for its row and for its column, times the root of its input's norm.

    S_ij = (|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2^a,   a = 0.5

The whole matrix competes against one threshold, or each row by itself. For n:m the channels can be
dealt out anew first (reallocation), so that the important ones do not meet in the same run: the
pattern then holds in that order of the inputs, not in the stored one, and no kernel gains from it
until the inputs are permuted too.

Source: Relative Importance and Activations (Zhang et al., ICLR 2024, "Plug-and-Play"), sections 3.1
and 3.2; the heuristic reallocation of its section 4. Assumes that no row and no column is
unimportant as a whole.
"""

from __future__ import annotations

import torch

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
    thinned,
)


def scores(matrix: Matrix, exponent: float) -> torch.Tensor:
    """Return the score of every weight, fp32 [out, in]; a row or column of zeros is worth 0."""
    assert matrix.norms is not None
    size = matrix.weight.abs()
    tiny = torch.finfo(size.dtype).tiny
    relative = size / size.sum(0).clamp_min(tiny) + size / size.sum(1, keepdim=True).clamp_min(tiny)
    return relative * matrix.norms.sqrt() ** exponent


def thin(matrix: Matrix, cut: Cut, settings: Settings) -> Thinned:
    """Return the matrix without the weights of the lowest scores."""
    metric = scores(matrix, float(settings["exponent"]))
    if cut.m and settings["reallocation"]:
        order = dealt_out(metric, cut.m)
        removed = torch.empty_like(metric, dtype=torch.bool)
        removed[:, order] = lowest_of_rows(metric[:, order], cut)
        return thinned(matrix.weight, removed)
    if settings["compare"] == "rows":
        return thinned(matrix.weight, lowest_of_rows(metric, cut))
    inclusive = settings["threshold"] == "inclusive"
    return thinned(matrix.weight, lowest_of_matrix(metric, cut, inclusive=inclusive))


def dealt_out(metric: torch.Tensor, m: int) -> torch.Tensor:
    """Return an order of the inputs in which every run of `m` holds important and unimportant ones.

    The inputs, sorted by the sum of their scores, are dealt to the runs like cards: one to each
    run in turn, the next round in the opposite direction.
    """
    runs = metric.shape[1] // m
    rounds = metric.sum(0).argsort(stable=True)[: runs * m].view(m, runs).clone()
    rounds[1::2] = rounds[1::2].flip(1)
    return rounds.T.flatten()


register(
    Estimator(
        name="ria",
        title="RIA",
        grain=Grain.FINE,
        needs=Needs.ACTIVATIONS,
        summary="A weight's share of its row and of its column, times the root of its input norm.",
        formula="(|W_ij|/Σ_i|W_ij| + |W_ij|/Σ_j|W_ij|)·‖X_j‖₂^a",
        source="Plug-and-Play, Zhang et al., ICLR 2024, section 3",
        weights=WeightMethod(thin, frozenset({Statistic.NORMS})),
        parameters=(
            PREFIX,
            Parameter("exponent", 0.5, "The exponent a of the input norm.", 0.0, 2.0),
            Parameter(
                "compare",
                "matrix",
                "Which weights compete: all of a matrix, or those of a row.",
                choices=("matrix", "rows"),
            ),
            THRESHOLD,
            Parameter(
                "reallocation",
                False,
                "For n:m: deal the inputs out anew first. The pattern then holds in that order.",
            ),
        ),
    )
)
