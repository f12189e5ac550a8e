"""Ridge regression: weights that stay are solved again so that the outputs stay what they were.

With W [out, in] a matrix, C = sum x x^T of its inputs, K the inputs that stay and R those that
leave, the outputs W x are met best, in least squares with a pull towards the weights there were, by

    W'_K = W_K + W_R C_RK (C_KK + lambda I)^-1,    lambda = damping * mean diag C

The same for every row where whole inputs leave (`without_inputs`), with a K of its own for every
row where single weights do (`under_masks`).

Source: optimal brain surgeon for layers (Dong et al., arXiv 1705.07565; SparseGPT, arXiv
2301.00774, section 3.1, where re-solving every row exactly is what its algorithm approximates). The
iteration for masks is preconditioned conjugate gradients, as ALPS (arXiv 2406.07831, section 3.3)
has it on a fixed support, preconditioned by (C + lambda I)^-1, which all rows share.
"""

from __future__ import annotations

import torch

from pruning_core.importance.damped import factor, scaled

ITERATIONS = 100
TOLERANCE = 1e-4
"""The residual, over what it is at the start, at which the iteration ends."""


def without_inputs(
    weight: torch.Tensor, products: torch.Tensor, kept: torch.Tensor, damping: float, name: str
) -> torch.Tensor:
    """Return what the columns that stay become once the others leave.

    Args:
        weight: [out, in].
        products: fp32 [in, in], C up to a factor.
        kept: int64 [kept], at least one.
        damping: see above.
        name: of the matrix, for the error.

    Returns:
        fp32 [out, kept].

    Raises:
        PrunescopeError: if the moments cannot be inverted even with the damping.
    """
    gone = torch.ones(len(products), dtype=torch.bool, device=products.device)
    gone[kept] = False
    wide = weight.double()
    stays = wide[:, kept]
    if not bool(gone.any()):
        return stays.float()
    moments = scaled(products)
    lower = factor(moments[kept][:, kept], damping, name)
    solved = torch.cholesky_solve(moments[gone][:, kept].T, lower)
    return (stays + wide[:, gone] @ solved.T).float()


def under_masks(
    weight: torch.Tensor,
    products: torch.Tensor,
    stays: torch.Tensor,
    damping: float,
    name: str,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what the weights that stay become once single ones leave.

    Args:
        weight: [out, in].
        products: fp32 [in, in], C up to a factor.
        stays: bool [out, in].
        damping, name: as for `without_inputs`.
        start: [out, in], where the iteration begins, by default at the weights that stay.

    Returns:
        fp32 [out, in], zero where a weight has left.

    Raises:
        PrunescopeError: as `without_inputs`.
    """
    dense = weight.float()
    moments = scaled(products)
    inverse = torch.cholesky_inverse(factor(moments, damping, name)).float()
    operator = moments.float()
    free = stays.float()

    def applied(step: torch.Tensor) -> torch.Tensor:
        return free * (step @ operator) + damping * step

    # The unknown is what is added to the weights that stay; those that leave add minus themselves.
    added = torch.zeros_like(dense) if start is None else free * (start.float() - dense)
    residual = free * ((dense * (1 - free)) @ operator) - applied(added)
    limit = TOLERANCE * residual.norm()
    ahead = free * (residual @ inverse)
    direction = ahead
    power = (residual * ahead).sum(1, keepdim=True)
    for _ in range(ITERATIONS):
        if residual.norm() <= limit:
            break
        turned = applied(direction)
        length = power / (direction * turned).sum(1, keepdim=True).clamp_min(1e-30)
        added = added + length * direction
        residual = residual - length * turned
        ahead = free * (residual @ inverse)
        following = (residual * ahead).sum(1, keepdim=True)
        direction = ahead + following / power.clamp_min(1e-30) * direction
        power = following
    return free * (dense + added)
