"""Backward passes over the calibration windows: gradients of some matrices, taken as they come.

Of every window the mean language-model loss is differentiated. As soon as the gradient of a matrix
exists it is handed on and freed, so that the peak of memory stays near weights + activations + one
gradient; keeping all gradients is why LLM-Pruner needs about 80 GB for a model of seven billion
weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.losses import next_token_loss
from pruning_core.calibration.passes import Window, each_window
from pruning_core.progress import Tick

Take = Callable[[Window, str, torch.Tensor], None]
"""Gets the window, a matrix's name and its gradient, in the model's dtype, to do with as it likes.
It is gone afterwards."""


def differentiate(
    model: PreTrainedModel,
    tensors: Iterable[str],
    windows: torch.Tensor,
    take: Take,
    stage: str,
    tick: Tick,
) -> None:
    """Differentiate the loss of every window and hand on the gradients of some matrices.

    Args:
        model: dense, frozen; it is left as it was.
        tensors: the matrices' names.
        windows: int64 [samples, tokens].
        take: hears of every gradient of every window.
        stage: what this is for, for `tick`.
        tick: hears one step per window.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if a loss is not finite, or by `take`.
    """
    names = list(tensors)
    for window in each_window(model, windows, stage, tick):
        with _taking(model, names, partial(take, window)):
            _backward(model, window)


@contextmanager
def _taking(
    model: PreTrainedModel, names: Iterable[str], take: Callable[[str, torch.Tensor], None]
) -> Iterator[None]:
    """Ask for gradients of the named matrices only, and take each as it comes."""
    with ExitStack() as undo:
        for name in names:
            parameter = model.get_parameter(name)
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(True)

            def hand_on(parameter: torch.Tensor, name: str = name) -> None:
                assert parameter.grad is not None
                take(name, parameter.grad)
                parameter.grad = None

            undo.callback(parameter.register_post_accumulate_grad_hook(hand_on).remove)
            undo.callback(setattr, parameter, "grad", None)
        yield


def _backward(model: PreTrainedModel, window: Window) -> None:
    with torch.enable_grad():
        logits = model(input_ids=window.ids, use_cache=False).logits[0]
    loss, gradient = next_token_loss(logits.detach(), window.ids[0])
    window.check("The loss of", torch.tensor(loss))
    logits.backward(gradient)
