"""A bias stands in for what removed units contributed on average (FLAP)."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.importance.evidence import Evidence
from pruning_core.model.anatomy import read_anatomy
from pruning_core.planning.plan import UnitPlan
from pruning_core.planning.resolving import Resolver
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.repair import Repair, RepairKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

WINDOWS = tiny.tokens(windows=3)
MLP = SiteKey(0, SiteKind.MLP)
ATTENTION = SiteKey(0, SiteKind.ATTENTION)
OLMO = ("olmo2", ATTENTION)
FAMILIES = ["llama", "olmo2", "phi3", "gpt2", "opt", "bloom"]


def plan(model: PreTrainedModel, sparsity: dict[SiteKey, float]) -> UnitPlan:
    anatomy = read_anatomy(model)
    evidence = Evidence(model, anatomy, lambda _count, _tick: WINDOWS)
    resolver = Resolver(model, anatomy, "abc", model.get_parameter, lambda _calibration: evidence)
    recipe = Recipe("tiny", "abc", repair=Repair(RepairKind.BIAS)).with_sparsity(sparsity)
    return resolver.units(recipe, random_map(anatomy))


def mean_output(model: PreTrainedModel, module: str) -> torch.Tensor:
    """Return what a projection puts out on average over the calibration tokens."""
    outputs: list[torch.Tensor] = []
    hook = model.get_submodule(module).register_forward_hook(
        lambda _m, _a, out: outputs.append(out)
    )
    model(WINDOWS)
    hook.remove()
    return outputs[0].flatten(0, -2).mean(0)


@pytest.mark.parametrize(
    ("family", "key"),
    # The norm of OLMo 2 spans all heads, so heads that stay change with those that go.
    [(name, key) for name in FAMILIES for key in (MLP, ATTENTION) if (name, key) != OLMO],
)
def test_the_mean_output_stays_what_it_was(family: str, key: SiteKey) -> None:
    model = tiny.tiny_model(family)
    bench = Workbench(model)
    module = bench.anatomy.by_key[key].output
    dense = mean_output(model, module)
    made = plan(model, {key: 0.5})
    assert made.sites[key].width.units > 0
    bench.apply(made)
    torch.testing.assert_close(mean_output(model, module), dense, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "olmo2", "phi3"])
@pytest.mark.parametrize("key", [MLP, ATTENTION])
def test_a_sub_layer_that_is_gone_leaves_its_mean(family: str, key: SiteKey) -> None:
    model = tiny.tiny_model(family)
    bench = Workbench(model)
    site = bench.anatomy.by_key[key]
    dense = mean_output(model, site.output)
    bench.apply(plan(model, {key: 1.0}))
    outputs: list[torch.Tensor] = []
    hook = model.get_submodule(site.module).register_forward_hook(
        lambda _m, _a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    model(WINDOWS)
    hook.remove()
    torch.testing.assert_close(outputs[0][0, 0], dense, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_restoring_takes_the_bias_away_again(family: str) -> None:
    model = tiny.tiny_model(family)
    bench = Workbench(model)
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    logits = model(WINDOWS).logits
    shares = dict.fromkeys(bench.anatomy.by_key, 0.5)
    made = plan(model, shares)
    bench.apply(made)
    assert sum(p.numel() for p in model.parameters()) == made.parameters
    bench.restore()
    after = model.state_dict()
    assert list(after) == list(dense)
    assert all(torch.equal(after[key], value) for key, value in dense.items())
    assert torch.equal(model(WINDOWS).logits, logits)


def test_generation_with_a_cache_equals_without() -> None:
    model = tiny.tiny_model()
    Workbench(model).apply(plan(model, {MLP: 0.5, ATTENTION: 1.0, SiteKey(2, SiteKind.MLP): 1.0}))
    options = {"max_new_tokens": 8, "do_sample": False}
    with_cache = model.generate(WINDOWS[:1], use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(WINDOWS[:1], use_cache=False, **options))
