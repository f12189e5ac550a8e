"""What tests of the passes look at themselves: the model before and after, what runs through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import SiteKey

FAMILIES = ["llama", "phi3", "qwen3", "gemma2", "gemma3", "olmo2", "mixtral"]


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Check that a model comes out with its weights, without gradients and hooks."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    yield
    after = model.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("forward" in m.__dict__ for m in model.modules())


def entered(model: PreTrainedModel, windows: torch.Tensor) -> dict[SiteKey, torch.Tensor]:
    """Return what enters the output projections, all at once: [windows, tokens, columns]."""
    found: dict[SiteKey, torch.Tensor] = {}
    hooks = [
        model.get_submodule(site.output).register_forward_pre_hook(
            lambda _module, inputs, key=site.key: found.__setitem__(key, inputs[0])
        )
        for site in read_anatomy(model).sites
    ]
    model(input_ids=windows)
    for hook in hooks:
        hook.remove()
    return found
