"""Second moments made fit to be solved with: over their mean diagonal, with a ridge, in fp64.

The eigenvalues of a layer's inputs span more orders of magnitude than fp32 has digits.
"""

from __future__ import annotations

import torch

from pruning_core.errors import PrunescopeError


def scaled(products: torch.Tensor) -> torch.Tensor:
    """Return moments, [in, in], over their mean diagonal, fp64."""
    wide = products.double()
    return wide / wide.diagonal().mean().clamp_min(torch.finfo(wide.dtype).tiny)


def factor(moments: torch.Tensor, damping: float, name: str) -> torch.Tensor:
    """Return the lower Cholesky factor of moments with a ridge.

    Args:
        moments: fp64 [in, in] as `scaled` makes them, or the part of some inputs.
        damping: the ridge.
        name: of the matrix they enter, for the error.

    Raises:
        PrunescopeError: if they cannot be solved with even so.
    """
    ridge = damping * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    lower, failed = torch.linalg.cholesky_ex(moments + ridge)
    if failed or not lower.isfinite().all():
        raise PrunescopeError(
            f"What enters {name} cannot be solved for. Raise the damping above {damping}, or look "
            "at more windows of text."
        )
    return lower
