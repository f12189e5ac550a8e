"""Ways to run a model's own forward pass from the side: recorded, resumed, masked, narrowed.

All of them wrap the stock forward and leave nothing behind. Running the real forward, instead of a
loop over layers of our own, keeps whatever a family does around its layers: embedding scales,
sliding masks by layer, rotary tables, logit caps.

Shapes: hidden states are [windows, tokens, hidden]; masks are [units of the site], 1 = kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from pruning_core.model.anatomy import Anatomy
from pruning_core.recipe import SiteKey, SiteKind


class DecoderLayers(tuple[nn.Module, ...]):
    """A model's decoder layers, in order.

    Attributes:
        return_tuples: whether a layer returns its hidden states as the first of a tuple.
    """

    return_tuples: bool = False


def decoder_layers(model: nn.Module, anatomy: Anatomy) -> DecoderLayers:
    """Return the model's decoder layers."""
    modules = model.get_submodule(anatomy.layers_path)
    assert isinstance(modules, nn.ModuleList)
    layers = DecoderLayers(modules)
    layers.return_tuples = anatomy.layers_return_tuples
    return layers


def positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model can read at once; None where it has no limit of its own."""
    found: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found


@contextmanager
def recorded(layers: Sequence[nn.Module], wanted: Iterable[int]) -> Iterator[dict[int, Any]]:
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
def resumed(layers: DecoderLayers, start: int, hidden: torch.Tensor) -> Iterator[None]:
    """Let forward passes skip the layers below `start` and go on from `hidden`.

    Args:
        start: the first layer that runs; ``len(layers)`` runs none but the head.
        hidden: what enters it, [windows, tokens, hidden], for the very windows of the pass.
    """
    output = (hidden,) if layers.return_tuples else hidden
    with ExitStack() as undo:
        for layer in layers[:start]:
            undo.enter_context(_forward_replaced(layer, lambda *_args, **_kwargs: output))
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
    with entering_changed(
        model,
        {
            anatomy.by_key[key].output: partial(_scaled, over_columns(mask, key, anatomy))
            for key, mask in masks.items()
        },
    ):
        yield


def over_columns(mask: torch.Tensor, key: SiteKey, anatomy: Anatomy) -> torch.Tensor:
    """Return a mask for every input column of a site's output projection, [columns]."""
    if key.kind is SiteKind.MLP:
        return mask
    return mask.repeat_interleave(anatomy.head_dim)


def _scaled(mask: torch.Tensor, entering: torch.Tensor) -> torch.Tensor:
    # Masks are learned on the CPU, wherever the model is.
    return entering * mask.to(entering)


@contextmanager
def entering_changed(
    model: nn.Module, changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]]
) -> Iterator[None]:
    """Let forward passes go on with something else than what enters some modules.

    Args:
        changes: by the modules' names from the model's root, what makes it out of what enters.
    """
    with ExitStack() as hooks:
        for name, change in changes.items():
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda _module, args, change=change: (change(args[0]), *args[1:])
            )
            hooks.callback(hook.remove)
        yield


def only_heads(
    attention: nn.Module, names: tuple[str, ...], heads: int, kept: torch.Tensor
) -> RemovableHandle:
    """Let narrower attention see only its own heads of what is made for all heads of the model.

    ALiBi adds to every attention score a slope that is the head's own; models make the slopes for
    all heads at once and hand them to every layer.

    Args:
        names: keyword arguments of `attention`, [windows, heads, ...] or [windows * heads, ...]
            with three axes in all; those that are the same for all heads are left as they are.
        heads: query heads of the dense model.
        kept: int64, those that `attention` has left.

    Returns:
        what takes the selection away again.
    """
    kept = kept.to(next(attention.parameters()).device)

    def select(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        own = {name: _of_heads(kwargs[name], heads, kept) for name in names if name in kwargs}
        return args, {**kwargs, **own}

    return attention.register_forward_pre_hook(select, with_kwargs=True)


def _of_heads(bias: torch.Tensor | None, heads: int, kept: torch.Tensor) -> torch.Tensor | None:
    if bias is None:
        return None
    if bias.ndim == 3:
        return bias.unflatten(0, (-1, heads)).index_select(1, kept).flatten(0, 1)
    return bias.index_select(1, kept) if bias.ndim == 4 and bias.shape[1] == heads else bias
