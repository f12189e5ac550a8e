"""One matrix in full: the fine-grained score of every single weight, for whoever zooms in.

Importance maps keep weights in tiles only; this makes the numbers behind the tiles of one matrix
again, with one backward pass per window that asks for the gradient of that matrix alone.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.backward import differentiate
from pruning_core.calibration.passes import Window
from pruning_core.progress import Tick, silent


def weight_scores(
    model: PreTrainedModel, tensor: str, windows: torch.Tensor, tick: Tick = silent
) -> torch.Tensor:
    """Return ``mean_n |e - e^2/2|`` with ``e = w * dL_n/dw`` for every weight of a matrix.

    Args:
        model: dense, frozen; it is left as it was.
        tensor: the parameter's name.
        windows: int64 [samples, tokens].
        tick: hears one step per sample.

    Returns:
        fp32 [out, in], on the CPU.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if a loss or a gradient is not finite.
    """
    weight = model.get_parameter(tensor).detach().float()
    total = torch.zeros_like(weight)

    def take(window: Window, name: str, gradient: torch.Tensor) -> None:
        e = gradient.float().mul_(weight)
        total.add_(torch.add(e, e * e, alpha=-0.5).abs_())
        # Every score is in the sum, and what is not finite stays so in it.
        window.check(f"The gradient of {name} in", total.sum())

    differentiate(model, [tensor], windows, take, "looking closer", tick)
    return total.div_(len(windows)).cpu()
