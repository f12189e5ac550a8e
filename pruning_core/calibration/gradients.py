"""The size of every weight's gradient, kept in full for the methods that rank by it.

    G = sqrt(sum_samples (dL_n/dW)^2)

Source: the gradient statistic of Pruner-Zero (arXiv 2406.02924). Unlike the sums of `taylor` this
costs one fp32 number for every weight, which is why it is asked for only where a formula needs it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.backward import differentiate
from pruning_core.calibration.passes import Window
from pruning_core.progress import Tick, silent


def gradient_sizes(
    model: PreTrainedModel, tensors: Sequence[str], windows: torch.Tensor, tick: Tick = silent
) -> dict[str, torch.Tensor]:
    """Return the gradient size of every weight of some matrices, fp32, shaped as they are stored.

    Args:
        model: dense, frozen; it is left as it was.
        tensors: the matrices' names.
        windows: int64 [samples, tokens].
        tick: hears one step per sample.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if a loss or a gradient is not finite.
    """
    squares = {
        name: torch.zeros_like(model.get_parameter(name), dtype=torch.float32) for name in tensors
    }

    def take(window: Window, name: str, gradient: torch.Tensor) -> None:
        squares[name] += gradient.float().square()
        # Every square is in the sum, and what is not finite stays so in it.
        window.check(f"The gradient of {name} in", squares[name].sum())

    differentiate(model, tensors, windows, take, "gathering gradients", tick)
    return {name: total.sqrt_() for name, total in squares.items()}
