"""What tests of weight-level methods share: the golden matrix and its statistics."""

from __future__ import annotations

import torch

from pruning_core.calibration.moments import InputMoments
from pruning_core.importance.registry import estimator
from pruning_core.importance.weights import Cut, Matrix, Thinned
from tests.golden import vectors

DEAD = [3, 17, 40]
"""The input features that are zero in the golden cases with dead inputs."""

CUTS = {"unstructured_30": Cut(0.3), "unstructured_50": Cut(0.5), "unstructured_70": Cut(0.7)} | {
    f"{n}_{m}": Cut(n / m, n, m) for n, m in ((2, 4), (4, 8))
}


def golden_matrix(*, dead: bool = False) -> Matrix:
    """Return the golden matrix [96, 128] with the moments of its inputs, hessian included."""
    inputs = vectors.case("linear_inputs")
    sequences = inputs["X"].clone()
    if dead:
        sequences[..., DEAD] = 0
    moments = InputMoments(sequences.shape[-1], torch.device("cpu"), hessian=True)
    for sequence in sequences:
        moments.add(sequence)
    return Matrix(
        "golden",
        inputs["W"].clone(),
        norms=moments.norms,
        hessian=moments.hessian,
        gradient=inputs["G"],
    )


def run(name: str, matrix: Matrix, cut: Cut, **given: object) -> Thinned:
    """Return what an estimator leaves of a matrix."""
    method = estimator(name)
    assert method.weights is not None
    return method.weights.thin(matrix, cut, method.settings(given))


def mask(case: str, tensor: str) -> torch.Tensor:
    """Return a golden mask, True where the authors' code prunes."""
    return vectors.case(case)[tensor].bool()
