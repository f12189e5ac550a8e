"""Slicing against masking, on every family and shape: the same numbers by two independent ways."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.model.anatomy import Part
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map, random_plan

MODELS = [*sorted(tiny.FAMILIES), *sorted(tiny.MIXTURES), *tiny.VARIANTS]


OUTPUTS = {
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
}
"""What the projections that read heads and channels are called where Llama's names don't hold."""


def mask_by_hand(model: PreTrainedModel, plan: Plan) -> None:
    """Zero what the plan removes, in place, knowing nothing of couplings."""
    layers = model.get_submodule(plan.anatomy.layers_path)
    names = OUTPUTS.get(model.config.model_type, ("self_attn.o_proj", "mlp.down_proj"))
    for key, site in plan.sites.items():
        layer = layers[key.layer]
        output = layer.get_submodule(names[key.kind is SiteKind.MLP])
        width = 8 if key.kind is SiteKind.ATTENTION else 1
        part = Part.QUERY_HEAD if key.kind is SiteKind.ATTENTION else Part.CHANNEL
        # GPT-2 stores its matrices [in, out].
        matrix = output.weight.T if model.config.model_type == "gpt2" else output.weight
        gone = torch.ones(matrix.shape[1] // width, dtype=torch.bool)
        gone[site.kept[part]] = False
        matrix[:, gone.repeat_interleave(width)] = 0
        if output.bias is not None and gone.all():
            output.bias.zero_()
        if model.config.model_type == "olmo2" and key.kind is SiteKind.ATTENTION:
            module = layer.self_attn
            kv_gone = torch.ones(module.k_proj.out_features // 8, dtype=torch.bool)
            kv_gone[site.kept[Part.KV_HEAD]] = False
            for norm, dead in ((module.q_norm, gone), (module.k_norm, kv_gone)):
                average_over_what_is_left(norm, dead.repeat_interleave(8))


def average_over_what_is_left(norm: torch.nn.Module, dead: torch.Tensor) -> None:
    """Make a norm over the whole projection leave the dead entries out of its mean."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        # OLMo 2 norms in fp32 whatever the dtype: the reference must round where it rounds.
        alive = x.to(torch.float32)[..., ~dead]
        scale = torch.rsqrt(alive.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        out = torch.zeros_like(x)
        out[..., ~dead] = (norm.weight[~dead] * (alive * scale)).to(x.dtype)
        return out

    norm.forward = forward


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MODELS)
def test_sliced_equals_masked(name: str, seed: int) -> None:
    bench = Workbench(tiny.tiny_model(name))
    plan = random_plan(bench, seed)
    masked = tiny.tiny_model(name)
    mask_by_hand(masked, plan)
    bench.apply(plan)
    tokens = tiny.tokens()
    difference = (bench.model(tokens).logits - masked(tokens).logits).abs().max()
    # Norms and rotary tables of stock models run in fp32 even in an fp64 model.
    assert difference < 2e-5


@pytest.mark.parametrize("name", MODELS)
def test_parameters_left_equal_the_count_of_the_plan(name: str) -> None:
    bench = Workbench(tiny.tiny_model(name))
    for seed in range(6):
        plan = random_plan(bench, seed)
        bench.apply(plan)
        assert plan.parameters == bench.model.num_parameters()
        cost = plan.cost(bench.dense_bytes, tokens=16)
        assert cost.bytes == sum(p.numel() * p.element_size() for p in bench.model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_restore_is_bit_identical(name: str) -> None:
    model = tiny.tiny_model(name)
    tokens = tiny.tokens()
    logits = model(tokens).logits
    state = {key: value.clone() for key, value in model.state_dict().items()}
    bench = Workbench(model)
    for seed in range(3):
        bench.apply(random_plan(bench, seed))
    bench.restore()
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert torch.equal(model(tokens).logits, logits)


def test_what_is_lent_is_given_back_whatever_happens() -> None:
    bench = Workbench(tiny.tiny_model())
    first = random_plan(bench, 1)
    for before in (None, first):
        with bench.applied(before):
            pass
        with bench.given_back():
            bench.apply(random_plan(bench, 2))
        assert bench.plan is before
        with suppress(KeyboardInterrupt), bench.given_back():
            bench.apply(random_plan(bench, 3))
            raise KeyboardInterrupt
        assert bench.plan is before
    assert first.parameters == bench.model.num_parameters()


@pytest.mark.parametrize("name", MODELS)
def test_generate_with_cache_equals_without(name: str) -> None:
    bench = Workbench(tiny.tiny_model(name))
    prompt = tiny.tokens(windows=2, length=7)
    for seed in range(4):
        bench.apply(random_plan(bench, seed))
        options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
        cached = bench.model.generate(prompt, use_cache=True, **options)
        plain = bench.model.generate(prompt, use_cache=False, **options)
        assert torch.equal(cached, plain)


# Stock Gemma 2 attends eagerly and returns NaN for padded rows, dense as well as pruned, and so
# does BLOOM in fp64.
@pytest.mark.parametrize(
    "name", [model for model in MODELS if model != "gemma2" and not model.startswith("bloom")]
)
def test_generate_with_left_padding_and_no_attention_in_layer_0(name: str) -> None:
    bench = Workbench(tiny.tiny_model(name))
    recipe = Recipe("tiny", "abc").with_sparsity({SiteKey(0, SiteKind.ATTENTION): 1.0})
    bench.apply(make_plan(recipe, random_map(bench.anatomy), bench.anatomy))
    prompt = tiny.tokens(windows=2, length=9)
    prompt[0, :4] = 0
    options = {
        "attention_mask": (prompt != 0).long(),
        "max_new_tokens": 12,
        "do_sample": False,
        "eos_token_id": None,
    }
    cached = bench.model.generate(prompt, use_cache=True, **options)
    assert torch.equal(cached, bench.model.generate(prompt, use_cache=False, **options))


def test_applying_touches_only_what_differs() -> None:
    bench = Workbench(tiny.tiny_model())
    scores = random_map(bench.anatomy)
    first = Recipe("tiny", "abc").with_sparsity({SiteKey(0, SiteKind.MLP): 0.5})
    bench.apply(make_plan(first, scores, bench.anatomy))
    kept = bench.model.get_parameter("model.layers.0.mlp.up_proj.weight")
    second = first.with_sparsity({SiteKey(2, SiteKind.MLP): 0.5})
    bench.apply(make_plan(second, scores, bench.anatomy))
    assert bench.model.get_parameter("model.layers.0.mlp.up_proj.weight") is kept
    assert bench.model.model.layers[2].mlp.up_proj.out_features == 20


def test_failure_inside_goes_back_to_the_plan_before() -> None:
    bench = Workbench(tiny.tiny_model())
    before, other = random_plan(bench, 1), random_plan(bench, 2)
    bench.apply(before)
    tokens = tiny.tokens()
    logits = bench.model(tokens).logits
    with pytest.raises(RuntimeError, match="stop"), bench.applied(other):
        raise RuntimeError("stop")
    assert bench.plan is before
    assert torch.equal(bench.model(tokens).logits, logits)


def test_success_inside_keeps_the_plan() -> None:
    bench = Workbench(tiny.tiny_model())
    plan = random_plan(bench, 1)
    with bench.applied(plan):
        pass
    assert bench.plan is plan


def test_failing_to_gather_still_restores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.tiny_model()
    bench = Workbench(model)
    tokens = tiny.tokens()
    logits = model(tokens).logits
    calls = iter(range(100))
    gather = torch.Tensor.index_select

    def out_of_memory(self: torch.Tensor, *args: object) -> torch.Tensor:
        if next(calls) == 5:
            raise torch.OutOfMemoryError("full")
        return gather(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "index_select", out_of_memory)
    recipe = Recipe("tiny", "abc").with_sparsity({s.key: 0.5 for s in bench.anatomy.sites})
    plan = make_plan(recipe, random_map(bench.anatomy), bench.anatomy)
    with pytest.raises(torch.OutOfMemoryError), bench.applied(plan):
        pytest.fail("the plan cannot have been applied")
    assert torch.equal(model(tokens).logits, logits)
