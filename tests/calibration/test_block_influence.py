"""Layers' influence against hidden states that were all kept, and golden numbers."""

from __future__ import annotations

from math import pi

import pytest
import torch

from pruning_core.calibration.block_influence import LayerInfluence, gather_block_influence
from pruning_core.model.anatomy import read_anatomy
from tests import tiny
from tests.calibration.witness import FAMILIES
from tests.golden import vectors

GOLDEN = vectors.case("shortgpt")
SEQUENCES, LENGTH = vectors.tokens().shape


@pytest.fixture(scope="module")
def golden() -> LayerInfluence:
    model = vectors.model("gqa")
    return gather_block_influence(model, read_anatomy(model), vectors.tokens())


def test_block_influence_is_that_of_shortgpt(golden: LayerInfluence) -> None:
    found = golden.block.double()
    torch.testing.assert_close(found, GOLDEN["bi_mean"], rtol=1e-4, atol=0)
    total = found * SEQUENCES * LENGTH
    torch.testing.assert_close(total, GOLDEN["bi_sum"], rtol=1e-4, atol=0)


def test_angular_distance_is_that_of_shortgpt(golden: LayerInfluence) -> None:
    total = golden.angular.double() * SEQUENCES
    torch.testing.assert_close(total, GOLDEN["angular_last_token_n1_sum"], rtol=1e-3, atol=0)


def test_every_golden_tensor_is_checked() -> None:
    assert set(GOLDEN) == {"bi_mean", "bi_sum", "angular_last_token_n1_sum"}


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_one_by_one_equal_all_at_once(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    anatomy = read_anatomy(model)
    found = gather_block_influence(model, anatomy, windows)
    layers = model.get_submodule(anatomy.layers_path)
    states: list[torch.Tensor] = []
    hooks = [
        layers[0].register_forward_pre_hook(
            lambda _m, args, kwargs: states.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        ),
        *(
            layer.register_forward_hook(
                lambda _m, _args, out: states.append(out[0] if isinstance(out, tuple) else out)
            )
            for layer in layers
        ),
    ]
    model(input_ids=windows)
    for hook in hooks:
        hook.remove()
    pairs = zip(states, states[1:], strict=False)
    cosines = [(a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)) for a, b in pairs]
    block = torch.stack([1 - c.mean() for c in cosines]).float()
    angular = torch.stack([(c[:, -1].arccos() / pi).mean() for c in cosines]).float()
    torch.testing.assert_close(found.block, block)
    torch.testing.assert_close(found.angular, angular)


def test_a_layer_that_adds_nothing_has_no_influence() -> None:
    model = tiny.tiny_model()
    for parameter in model.model.layers[1].parameters():
        parameter.zero_()
    found = gather_block_influence(model, read_anatomy(model), tiny.tokens())
    for values in (found.block, found.angular):
        assert float(values[1]) == pytest.approx(0, abs=1e-7)
        assert (values >= 0).all()
        assert (values[[0, 2]] > 0.01).all()
