"""Families with layers unlike Llama's: scored, masked, sliced and resumed."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from pruning_core.calibration.taylor import gather_taylor
from pruning_core.evaluation.live import LiveEvaluator
from pruning_core.model.anatomy import Part, read_anatomy
from pruning_core.model.forward import masked
from pruning_core.planning.plan import UnitPlan, make_plan
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

NEW = ("bloom", "opt", "gpt2", "gpt_neox", "falcon", "baichuan")
MODELS = [*NEW, *(name for name, (family, _) in tiny.VARIANTS.items() if family in NEW)]
ALIBI = ["bloom", "falcon, alibi", "baichuan, alibi"]

Pair = tuple[torch.Tensor, torch.Tensor]


def plan_of(bench: Workbench, seed: int, *, gone: float = 0.2) -> UnitPlan:
    """Return a plan of random widths; `gone` is the share of sites asked to leave altogether."""
    draw = random.Random(seed)
    sparsity = {
        site.key: 1.0 if draw.random() < gone else 0.9 * draw.random()
        for site in bench.anatomy.sites
    }
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    return make_plan(recipe, random_map(bench.anatomy, seed), bench.anatomy)


@pytest.mark.parametrize("name", MODELS)
def test_resumed_equals_full(name: str) -> None:
    bench = Workbench(tiny.tiny_model(name))
    windows = tiny.tokens(windows=3)
    evaluator = LiveEvaluator(bench, windows)
    base = plan_of(bench, 0)
    evaluator.measure(base)
    for site in bench.anatomy.sites[2:]:
        sparsity = {**dict(base.recipe.sparsity), site.key: 0.5}
        recipe = base.recipe.with_sparsity(sparsity)
        plan = make_plan(recipe, random_map(bench.anatomy, 0), bench.anatomy)
        assert evaluator.measure(plan) == LiveEvaluator(bench, windows).measure(plan)
    assert evaluator.measure(None) == LiveEvaluator(bench, windows).measure(None)


@pytest.mark.parametrize("name", MODELS)
def test_masks_in_the_forward_pass_equal_slices(name: str) -> None:
    model, windows = tiny.tiny_model(name), tiny.tokens()
    bench = Workbench(model)
    for seed in range(2):
        plan = plan_of(bench, seed, gone=0)
        masks = {}
        # What is gone altogether takes its bias along, which a mask leaves.
        for key, site in ((k, s) for k, s in plan.sites.items() if s.width.units):
            part = Part.QUERY_HEAD if key.kind is SiteKind.ATTENTION else Part.CHANNEL
            masks[key] = torch.zeros(site.site.counts[part], dtype=torch.float64)
            masks[key][site.kept[part]] = 1
        bench.restore()
        with masked(model, bench.anatomy, masks):
            expected = model(windows).logits
        bench.apply(plan)
        assert all(plan.sites[key].width.units for key in masks)
        assert (model(windows).logits - expected).abs().max() < 2e-5


@pytest.mark.parametrize("name", ALIBI)
def test_slopes_follow_their_heads_with_padding_too(name: str) -> None:
    # Stock BLOOM takes its softmax in fp32, where the fp64 mask of a padded row is all infinite.
    bench = Workbench(tiny.tiny_model(name).to(torch.float32))
    prompt = tiny.tokens(windows=2, length=9)
    prompt[0, :4] = 0
    padding = (prompt != 0).long()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    for seed in range(4):
        bench.apply(plan_of(bench, seed, gone=0.4))
        for cache in (True, False):
            padded = bench.model.generate(
                prompt, attention_mask=padding, use_cache=cache, **options
            )
            plain = bench.model.generate(prompt[:1, 4:], use_cache=cache, **options)
            assert torch.equal(padded[0, 9:], plain[0, 5:])
        padded = bench.model(prompt, attention_mask=padding).logits[0, 4:]
        assert (padded - bench.model(prompt[:1, 4:]).logits[0]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ALIBI)
def test_dense_attention_sees_the_slopes_of_all_heads(name: str) -> None:
    model = tiny.tiny_model(name)
    bench = Workbench(model)
    bench.apply(plan_of(bench, 1))
    bench.restore()
    assert not any(module._forward_pre_hooks for module in model.modules())


def both(e: torch.Tensor) -> Pair:
    """Return the sum and the sum of ``|e - e^2/2|`` over all but the first axis."""
    e = e.reshape(len(e), -1)
    return e.sum(1), (e - e * e / 2).abs().sum(1)


def add(*pairs: Pair) -> Pair:
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)  # type: ignore[return-value]


def fold(name: str, e: dict[str, torch.Tensor]) -> dict[Part, Pair]:
    """Return the sums over the parts of layer 1, heads 9 of width 8, knowing nothing of couplings.

    Args:
        e: weight times gradient of the matrices of the layer, by the last two parts of their name.
    """
    match name:
        case "gpt2":
            e = {key: value.T for key, value in e.items()}
            q, k, v = e["attn.c_attn"].split(72)
            o, up, down = e["attn.c_proj"], e["mlp.c_fc"], e["mlp.c_proj"]
        case "opt":
            q, k, v = (e[f"self_attn.{which}_proj"] for which in "qkv")
            o, up, down = e["self_attn.out_proj"], e["1.fc1"], e["1.fc2"]
        case "baichuan":
            q, k, v = e["self_attn.W_pack"].split(72)
            o, down = e["self_attn.o_proj"], e["mlp.down_proj"]
            up = torch.cat((e["mlp.gate_proj"], e["mlp.up_proj"]), dim=1)
        case "falcon, one group":
            q, k, v = e["self_attention.query_key_value"].split([72, 8, 8])
        case _:
            attention = "attention" if name == "gpt_neox" else "self_attention"
            groups = e[f"{attention}.query_key_value"]
    if name in ("bloom", "gpt_neox", "falcon", "falcon, one group"):
        o = e[f"{'attention' if name == 'gpt_neox' else 'self_attention'}.dense"]
        up, down = e["mlp.dense_h_to_4h"], e["mlp.dense_4h_to_h"]
    o = both(o.T.reshape(9, 8, -1))
    channels = {Part.CHANNEL: add(both(up), both(down.T))}
    if name in ("bloom", "gpt_neox", "falcon"):
        whole = groups.reshape(3 if name == "falcon" else 9, -1)
        return {**channels, Part.QUERY_HEAD: o, Part.KV_HEAD: both(whole)}
    heads = len(k) // 8
    return {
        **channels,
        Part.QUERY_HEAD: add(both(q.reshape(9, 8, -1)), o),
        Part.KV_HEAD: add(both(k.reshape(heads, 8, -1)), both(v.reshape(heads, 8, -1))),
    }


@pytest.mark.parametrize("name", [*NEW, "falcon, one group"])
def test_sums_of_a_pass_equal_those_of_kept_gradients(name: str) -> None:
    model, windows = tiny.tiny_model(name), tiny.tokens(windows=1)
    anatomy = read_anatomy(model)
    statistics = gather_taylor(model, anatomy, windows)
    full = copy.deepcopy(model).requires_grad_(True)
    logits = full(input_ids=windows).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, windows[0, 1:]).backward()
    e = {
        ".".join(m.module.split(".")[-2:]): full.get_parameter(m.tensor).detach()
        * full.get_parameter(m.tensor).grad
        for m in anatomy.linears
        if m.key.layer == 1
    }
    found = {
        part: sums for kind in SiteKind for part, sums in statistics.parts[SiteKey(1, kind)].items()
    }
    expected = fold(name, e)
    assert set(found) == set(expected)
    for part, (signed, fine) in expected.items():
        torch.testing.assert_close(found[part].fine[0].double(), fine, rtol=1e-5, atol=0)
        assert ((found[part].signed[0] - signed).abs() <= 1e-5 * fine).all()
