"""Ways to run a model's own forward pass from the side: recorded, resumed, masked.

All of them wrap the stock forward and leave nothing behind. Running the real forward, instead of a
loop over layers of our own, keeps whatever a family does around its layers: embedding scales,
sliding masks by layer, rotary tables, logit caps.

Shapes: hidden states are [windows, tokens, hidden]; masks are [units of the site], 1 = kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning_core.model.anatomy import Anatomy
from pruning_core.recipe import SiteKey, SiteKind


def decoder_layers(model: nn.Module, anatomy: Anatomy) -> nn.ModuleList:
    """Return the model's list of decoder layers."""
    layers = model.get_submodule(anatomy.layers_path)
    assert isinstance(layers, nn.ModuleList)
    return layers


@contextmanager
def recorded(layers: nn.ModuleList, wanted: Iterable[int]) -> Iterator[dict[int, Any]]:
    """Collect the hidden states that enter the wanted layers, ``{layer: [w, t, hidden]}``.

    The index ``len(layers)`` stands for what leaves the last layer. Each forward pass inside the
    context overwrites what the one before it left. The tensors are the pass's own, not copies.
    """
    states: dict[int, Any] = {}
    with ExitStack() as hooks:
        for index in wanted:
            if index == len(layers):
                hook = layers[-1].register_forward_hook(
                    lambda _module, _args, output, i=index: states.__setitem__(i, _tensor(output))
                )
            else:
                hook = layers[index].register_forward_pre_hook(
                    lambda _module, args, kwargs, i=index: states.__setitem__(
                        i, args[0] if args else kwargs["hidden_states"]
                    ),
                    with_kwargs=True,
                )
            hooks.callback(hook.remove)
        yield states


def _tensor(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def resumed(layers: nn.ModuleList, start: int, hidden: torch.Tensor) -> Iterator[None]:
    """Let forward passes skip the layers below `start` and go on from `hidden`.

    Args:
        start: the first layer that runs; ``len(layers)`` runs none but the head.
        hidden: what enters it, [windows, tokens, hidden], for the very windows of the pass.
    """
    with ExitStack() as undo:
        for layer in layers[:start]:
            undo.enter_context(_forward_replaced(layer, lambda *_args, **_kwargs: hidden))
        yield


@contextmanager
def logits_into(model: PreTrainedModel, memory: torch.Tensor) -> Iterator[None]:
    """Let forward passes write their logits where those of the pass before were, overwriting them.

    For a CPU: there the system maps and clears fresh memory of that size page by page, which takes
    as long as the product itself. A head that is more than a matrix is left as it is.

    Args:
        memory: in the dtype of the model, room for the logits of the largest batch.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or getattr(head, "bias", None) is not None:
        yield
        return
    weight = head.weight

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        shape = (*hidden.shape[:-1], len(weight))
        return torch.matmul(hidden, weight.t(), out=memory[: prod(shape)].view(shape))

    with _forward_replaced(head, forward):
        yield


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # accelerate also keeps its wrapper as an instance attribute; it must come back as it was.
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def masked(
    model: nn.Module, anatomy: Anatomy, masks: Mapping[SiteKey, torch.Tensor]
) -> Iterator[None]:
    """Multiply what the units of some sites contribute by their masks; gradients reach the masks.

    Args:
        masks: per site [channels] for an MLP, [query heads] for attention. They are applied at the
            input of the projection that reads the units, so that 0 removes a unit's contribution
            from the computation and 1 leaves it untouched.
    """
    with ExitStack() as hooks:
        for key, mask in masks.items():
            site = anatomy.by_key[key]
            repeat = anatomy.head_dim if key.kind is SiteKind.ATTENTION else 1

            def scale(
                _module: nn.Module,
                args: tuple[torch.Tensor],
                mask: Any = mask,
                repeat: int = repeat,
            ) -> tuple[torch.Tensor]:
                wide = mask.repeat_interleave(repeat) if repeat > 1 else mask
                # Masks are learned on the CPU, wherever the model is.
                return (args[0] * wide.to(args[0]),)

            output = model.get_submodule(site.output)
            hooks.callback(output.register_forward_pre_hook(scale).remove)
        yield
