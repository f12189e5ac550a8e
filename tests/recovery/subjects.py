"""Tiny pruned models, and lessons of random tokens to train them on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning_core.calibration import Split, Text
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.planning.thinning import WeightPlan, thin
from pruning_core.recipe import Pattern, Recipe, Scoring, SiteKey, SiteKind
from pruning_core.recovery.lessons import Lessons, Sample
from pruning_core.recovery.settings import Settings
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

LENGTH = 12
QUICK = Settings(
    text="random", rank=4, alpha=8, rate=1e-2, length=LENGTH, batch=4, micro=2, steps=4, warmup=1
)


def settings(**changes: Any) -> Settings:
    return replace(QUICK, **changes)


def lessons(count: int = 8, seed: int = 3) -> Lessons:
    text = Text("random", Split.CALIBRATION, (f"seed {seed}",), "", "nowhere")
    windows = tiny.tokens(count, LENGTH, seed)
    return Lessons(text, tuple(Sample(ids, 1) for ids in windows))


def bench_of(name: str = "llama") -> Workbench:
    return Workbench(tiny.tiny_model(name))


def narrowed(bench: Workbench) -> Plan:
    """Return a plan of units: a narrow site, a dense one, and, where that can be, one gone."""
    sites = bench.anatomy.sites
    mlp = [site.key for site in sites if site.key.kind is SiteKind.MLP]
    attention = [site.key for site in sites if site.key.kind is SiteKind.ATTENTION]
    sparsity = {attention[0]: 0.4, attention[1]: 1.0}
    if mlp:
        sparsity |= {mlp[0]: 1.0, mlp[1]: 0.5}
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    return make_plan(recipe, random_map(bench.anatomy), bench.anatomy)


def thinned(bench: Workbench, pattern: str = "2:4") -> WeightPlan:
    """Return a plan of single weights that leaves the last layer as it is."""
    sites = [SiteKey(layer, kind) for layer in (0, 1) for kind in SiteKind]
    known = {linear.key for linear in bench.anatomy.linears}
    recipe = Recipe("tiny", "abc", Scoring("magnitude"), pattern=Pattern.parse(pattern))
    recipe = recipe.with_sparsity({site: 0.5 for site in sites if site in known})
    return thin(recipe, "abc", bench.model, bench.anatomy, lambda: tiny.tokens())


def state_of(model: PreTrainedModel) -> dict[str, Any]:
    """Return all that must be the same after adapters were on a model."""
    return {
        "numbers": {name: value.clone() for name, value in model.state_dict().items()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "kinds": {name: type(module) for name, module in model.named_modules()},
        "training": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: (len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
        "flags": {name: value.requires_grad for name, value in model.named_parameters()},
        "gradients": [name for name, value in model.named_parameters() if value.grad is not None],
        "own": {name: id(value) for name, value in model.named_parameters()},
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    numbers, now = before.pop("numbers"), after.pop("numbers")
    assert list(numbers) == list(now)
    assert all(torch.equal(numbers[name], now[name]) for name in numbers)
    assert before == after


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny.tokens()).logits
