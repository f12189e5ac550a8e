"""One matrix in full: the fine-grained score of every single weight, for whoever zooms in.

Importance maps keep weights in tiles only; this makes the numbers behind the tiles of one matrix
again, with one backward pass per window that asks for the gradient of that matrix alone.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.losses import next_token_loss
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
    """
    parameter = model.get_parameter(tensor)
    weight = parameter.detach().float()
    total = torch.zeros_like(weight)
    required = parameter.requires_grad
    parameter.requires_grad_(True)
    try:
        for sample, window in enumerate(windows):
            tick("looking closer", sample, len(windows))
            with torch.enable_grad():
                logits = model(input_ids=window[None].to(model.device), use_cache=False).logits[0]
            _, gradient = next_token_loss(logits.detach(), window)
            (found,) = torch.autograd.grad(logits, parameter, gradient)
            e = found.float().mul_(weight)
            total += torch.add(e, e * e, alpha=-0.5).abs_()
    finally:
        parameter.requires_grad_(required)
    tick("looking closer", len(windows), len(windows))
    return total.div_(len(windows)).cpu()
