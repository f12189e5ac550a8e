from __future__ import annotations

import torch
import torch.nn.functional as F

from pruning_core.calibration.gradients import gradient_sizes
from tests import tiny

NAMES = ["model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.k_proj.weight"]


def test_sizes_are_roots_of_summed_squares() -> None:
    model, windows = tiny.tiny_model(), tiny.tokens(windows=3)
    found = gradient_sizes(model, NAMES, windows)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    for name in NAMES:
        parameter = model.get_parameter(name).requires_grad_()
        squares = torch.zeros_like(parameter)
        for window in windows:
            loss = F.cross_entropy(model(window[None]).logits[0, :-1], window[1:])
            (gradient,) = torch.autograd.grad(loss, parameter)
            squares += gradient.square()
        torch.testing.assert_close(found[name], squares.sqrt().float(), rtol=1e-4, atol=1e-9)
