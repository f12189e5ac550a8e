"""Adapters: put on and taken off without a trace, masked where weights have left, merged."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning_core.errors import PrunescopeError
from pruning_core.planning.plan import Plan, UnitPlan, make_plan
from pruning_core.planning.thinning import WeightPlan
from pruning_core.recipe import Recipe
from pruning_core.recovery.adapters import WEIGHTS, Adapters, adapted, targets
from tests import tiny
from tests.maps import random_map
from tests.recovery.subjects import (
    assert_same,
    bench_of,
    logits,
    narrowed,
    settings,
    state_of,
    thinned,
)

FAMILIES = [*sorted(tiny.FAMILIES), *sorted(tiny.MIXTURES)]
ROUNDED = 2e-5
"""What rounding may move logits of about 10 by: norms are fp32 in an fp64 model too."""


def learn_something(adapters: Adapters) -> None:
    """Give every adapter random numbers, as if it had been trained."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)


def plan_of(name: str, kind: str) -> tuple:
    bench = bench_of(name)
    return bench, narrowed(bench) if kind == "units" else thinned(bench)


@pytest.mark.parametrize("kind", ["units", "weights"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_merged_model_is_the_trained_one(name: str, kind: str) -> None:
    bench, plan = plan_of(name, kind)
    bench.apply(plan)
    before = logits(bench.model)
    state = state_of(bench.model)
    with adapted(bench.model, plan, settings()) as adapters:
        assert torch.equal(logits(bench.model), before)  # the first B is 0
        learn_something(adapters)
        trained = logits(bench.model)
        weights = adapters.merged()
    assert_same(state, state_of(bench.model))
    assert torch.equal(logits(bench.model), before)
    assert (trained - before).abs().max() > 1e-2
    bench.apply(plan.with_weights(weights, "trained"))
    assert (logits(bench.model) - trained).abs().max() < ROUNDED
    bench.restore()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [*((name, "2:4") for name in FAMILIES), ("llama", "unstructured"), ("gpt2", "unstructured")],
)
def test_zeros_survive_the_merge_element_for_element(name: str, pattern: str) -> None:
    bench = bench_of(name)
    plan = thinned(bench, pattern)
    bench.apply(plan)
    with adapted(bench.model, plan, settings()) as adapters:
        learn_something(adapters)
        weights = adapters.merged()
    changed = {name for site in plan.sites.values() for name in site.weights}
    assert changed
    for tensor in changed:
        thin = bench.model.get_parameter(tensor)
        assert torch.equal(weights[tensor] == 0, thin == 0), tensor
        assert (thin == 0).double().mean() == pytest.approx(0.5, abs=0.01)
        assert not torch.equal(weights[tensor], thin)


def test_without_the_mask_zeros_would_not_survive() -> None:
    """What the test above guards against is real: a plain adapter fills the zeros."""
    bench = bench_of()
    plan = thinned(bench)
    bench.apply(plan)
    units = make_plan(Recipe("tiny", "abc"), random_map(bench.anatomy), bench.anatomy)
    with adapted(bench.model, units, settings()) as adapters:
        learn_something(adapters)
        weights = adapters.merged()
    tensor = next(name for site in plan.sites.values() for name in site.weights)
    assert not (weights[tensor] == 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_adapters_are_in_fp32_and_what_is_merged_in_the_dtype_of_the_model(
    dtype: torch.dtype,
) -> None:
    bench = bench_of()
    bench.model.to(dtype)
    plan = thinned(bench)
    bench.apply(plan)
    with adapted(bench.model, plan, settings()) as adapters:
        assert {value.dtype for value in adapters.parameters.values()} == {torch.float32}
        learn_something(adapters)
        trained = logits(bench.model)
        weights = adapters.merged()
    assert {value.dtype for value in weights.values()} == {dtype}
    assert trained.dtype == dtype
    bench.apply(plan.with_weights(weights, "trained"))
    apart = (logits(bench.model) - trained).abs().max()
    assert apart < (0.5 if dtype == torch.bfloat16 else 1e-4)


def test_a_failure_inside_takes_the_adapters_off() -> None:
    bench = bench_of()
    plan = narrowed(bench)
    bench.apply(plan)
    flagged = bench.model.get_parameter("model.norm.weight").requires_grad_(True)
    state = state_of(bench.model)
    with adapted(bench.model, plan, settings()):
        assert not flagged.requires_grad
    with pytest.raises(RuntimeError, match="stop"), adapted(bench.model, plan, settings()):
        raise RuntimeError("stop")
    assert flagged.requires_grad
    assert_same(state, state_of(bench.model))


def test_a_failure_while_they_are_put_on_takes_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    bench.apply(plan)
    state = state_of(bench.model)
    calls = iter(range(100))
    real = peft.tuners.lora.layer.Linear.update_layer

    def fail(self: object, *args: object, **kwargs: object) -> None:
        if next(calls) == 3:
            raise torch.OutOfMemoryError("full")
        real(self, *args, **kwargs)

    monkeypatch.setattr(peft.tuners.lora.layer.Linear, "update_layer", fail)
    with pytest.raises(torch.OutOfMemoryError), adapted(bench.model, plan, settings()):
        pytest.fail("the adapters cannot be on")
    assert_same(state, state_of(bench.model))


def test_sites_that_have_lost_every_unit_are_left_out() -> None:
    bench = bench_of()
    plan = narrowed(bench)
    assert isinstance(plan, UnitPlan)
    gone = {key for key, site in plan.sites.items() if not site.width.units}
    assert len(gone) == 2
    assert {linear.key for linear in targets(plan)} == set(plan.sites) - gone


def test_a_model_with_nothing_left_has_nothing_to_train() -> None:
    bench = bench_of()
    recipe = Recipe("tiny", "abc").with_sparsity({site.key: 1.0 for site in bench.anatomy.sites})
    plan = make_plan(recipe, random_map(bench.anatomy), bench.anatomy)
    bench.apply(plan)
    with (
        pytest.raises(PrunescopeError, match="nothing to train"),
        adapted(bench.model, plan, settings()),
    ):
        pytest.fail("there is nothing")


def test_the_first_numbers_are_the_seed_s_and_nobody_else_s_are_drawn() -> None:
    bench = bench_of()
    plan = narrowed(bench)
    bench.apply(plan)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    drawn = []
    for seed in (0, 0, 1):
        with adapted(bench.model, plan, settings(seed=seed)) as adapters:
            drawn.append([value.detach().clone() for value in adapters.parameters.values()])
    assert torch.equal(torch.rand(1), expected)
    assert all(map(torch.equal, drawn[0], drawn[1]))
    assert not all(map(torch.equal, drawn[0], drawn[2]))


def save_some(folder: Path, plan: Plan, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    with adapted(model, plan, settings()) as adapters:
        learn_something(adapters)
        adapters.save(folder)
        return adapters.merged()


def test_what_is_saved_is_peft_s_and_read_back(tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    bench.apply(plan)
    weights = save_some(tmp_path, plan, bench.model)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, "adapter_config.json"}
    with adapted(bench.model, plan, settings(seed=7)) as adapters:
        adapters.load(tmp_path)
        again = adapters.merged()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    bench.apply(plan.with_weights(weights, "trained"))
    merged = logits(bench.model)
    # peft itself opens the folder, on the pruned model.
    bench.apply(plan)
    with torch.no_grad():
        opened = peft.PeftModel.from_pretrained(bench.model, tmp_path)
        assert (opened(tiny.tokens()).logits - merged).abs().max() < ROUNDED


@pytest.mark.parametrize("damage", ["cut", "missing", "renamed", "shape"])
def test_damaged_adapters_are_refused(tmp_path: Path, damage: str) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    bench.apply(plan)
    save_some(tmp_path, plan, bench.model)
    path = tmp_path / WEIGHTS
    values = load_file(path)
    first = next(iter(values))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "missing":
        path.unlink()
    else:
        value = values.pop(first)
        name = f"{first}.other" if damage == "renamed" else first
        save_file(values | {name: value if damage == "renamed" else value[:1].clone()}, path)
    with (
        adapted(bench.model, plan, settings()) as adapters,
        pytest.raises(PrunescopeError, match="can't be used"),
    ):
        adapters.load(tmp_path)


def test_a_plan_of_weights_has_targets_at_every_matrix() -> None:
    bench = bench_of()
    plan = thinned(bench)
    assert isinstance(plan, WeightPlan)
    assert targets(plan) == bench.anatomy.linears
