"""The size of every weight's gradient, kept in full for the methods that rank by it.

    G = sqrt(sum_samples (dL_n/dW)^2)

Source: the gradient statistic of Pruner-Zero (arXiv 2406.02924). Unlike the sums of `taylor` this
costs one fp32 number for every weight, which is why it is asked for only where a formula needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.losses import next_token_loss
from pruning_core.errors import PrunescopeError
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
        PrunescopeError: if a gradient is not finite.
    """
    parameters = {name: model.get_parameter(name) for name in tensors}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    with ExitStack() as undo:
        for name, parameter in parameters.items():
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(True)

            def take(taken: torch.Tensor, total: torch.Tensor = sums[name]) -> None:
                assert taken.grad is not None
                total += taken.grad.float().square()
                taken.grad = None

            undo.callback(parameter.register_post_accumulate_grad_hook(take).remove)
            undo.callback(setattr, parameter, "grad", None)
        for sample, window in enumerate(windows):
            tick("gathering gradients", sample, len(windows))
            with torch.enable_grad():
                logits = model(input_ids=window[None].to(model.device), use_cache=False).logits[0]
            _, gradient = next_token_loss(logits.detach(), window)
            logits.backward(gradient)
            del logits, gradient
    tick("gathering gradients", len(windows), len(windows))
    for name, total in sums.items():
        if not total.isfinite().all():
            raise PrunescopeError(
                f"The gradient of {name} is not finite in the model's {model.dtype}, so nothing "
                "can be ranked by it. Load the model in bfloat16 or float32."
            )
        total.sqrt_()
    return sums
