"""Walking the layers gives what the whole model gives, and leaves it as it was."""

from __future__ import annotations

import pytest
import torch

from pruning_core.calibration.walk import Walk
from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import read_anatomy
from pruning_core.progress import Cancelled
from tests import tiny
from tests.calibration.witness import left_as_it_was


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "smollm3"])
def test_inputs_of_the_last_layer_are_those_of_a_whole_pass(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    windows = tiny.tokens(windows=3)
    linears = [linear for linear in anatomy.linears if linear.key.layer == anatomy.layers - 1]
    seen: dict[str, list[torch.Tensor]] = {linear.tensor: [] for linear in linears}
    hooks = [
        model.get_submodule(linear.module).register_forward_pre_hook(
            lambda _m, args, name=linear.tensor: seen[name].append(args[0])
        )
        for linear in linears
    ]
    model(windows)
    for hook in hooks:
        hook.remove()

    walk = Walk(model, anatomy, windows)
    for _ in range(anatomy.layers - 1):
        walk.step({})
    for name, found in walk.look(linears, hessian=True).items():
        (inputs,) = seen[name]
        squares = inputs.square().sum((0, 1)) / 3
        products = 2 / 3 * torch.einsum("wti,wtj->ij", inputs, inputs)
        torch.testing.assert_close(found.moments.norms, squares.float())
        torch.testing.assert_close(
            found.moments.hessian, products.float(), rtol=1e-4, atol=1e-4 * float(products.max())
        )


def test_other_weights_reach_the_next_layer_and_not_the_model() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    windows = tiny.tokens()
    name = "model.layers.0.mlp.down_proj.weight"
    dense = model.get_parameter(name).clone()
    upper = [linear for linear in anatomy.linears if linear.key.layer == 1]

    walk = Walk(model, anatomy, windows)
    walk.step({name: torch.zeros_like(dense)})
    walked = walk.look(upper)["model.layers.1.self_attn.q_proj.weight"].moments.norms
    assert torch.equal(model.get_parameter(name), dense)

    model.get_parameter(name).zero_()
    truly = Walk(model, anatomy, windows)
    truly.step({})
    expected = truly.look(upper)["model.layers.1.self_attn.q_proj.weight"].moments.norms
    assert torch.equal(walked, expected)


def test_regional_gradients_are_those_of_the_layer_output() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    windows = tiny.tokens(windows=2)
    (down,) = [
        linear
        for linear in anatomy.linears
        if linear.tensor == "model.layers.0.mlp.down_proj.weight"
    ]
    seen = Walk(model, anatomy, windows).look([down], regional=True)[down.tensor].regional

    outputs: list[torch.Tensor] = []
    hook = model.model.layers[0].register_forward_hook(lambda _m, _a, out: outputs.append(out))
    parameter = model.get_parameter(down.tensor).requires_grad_()
    squares = torch.zeros_like(parameter)
    for window in windows:
        model(window[None])
        out = outputs.pop()
        out = out[0] if isinstance(out, tuple) else out
        (gradient,) = torch.autograd.grad(out.norm(), parameter)
        squares += gradient.square()
    hook.remove()
    torch.testing.assert_close(seen, (squares / 2).sqrt().float(), rtol=1e-4, atol=1e-7)


def test_a_walk_that_is_cancelled_leaves_nothing_behind() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 3:
            raise Cancelled

    walk = Walk(model, anatomy, tiny.tokens(), stop)
    walk.step({})
    with left_as_it_was(model), pytest.raises(Cancelled):
        walk.look([linear for linear in anatomy.linears if linear.key.layer == 1], regional=True)


def test_inputs_that_are_not_finite_are_refused() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    model.get_parameter("model.layers.0.mlp.up_proj.weight").fill_(torch.inf)
    walk = Walk(model, anatomy, tiny.tokens())
    said = (
        "What enters model.layers.0.mlp.down_proj in calibration window 1 of 2 is not finite in "
        "the model's float64"
    )
    with left_as_it_was(model), pytest.raises(PrunescopeError, match=said):
        walk.look([linear for linear in anatomy.linears if linear.key.layer == 0])
