"""Repair of a plan against least squares on what really enters the pruned model's projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.calibration.walk import Walk
from pruning_core.importance.evidence import Evidence
from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.planning.plan import DENSE, SitePlan, UnitPlan
from pruning_core.planning.resolving import Resolver
from pruning_core.planning.ridge import under_masks
from pruning_core.planning.thinning import thin
from pruning_core.recipe import Calibration, Pattern, Recipe, Scoring, SiteKey, SiteKind
from pruning_core.repair import NO_REPAIR, Repair
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

WINDOWS = tiny.tokens(windows=6)
Weights = dict[str, torch.Tensor]
FAMILIES = ["llama", "qwen2", "phi3", "gpt2", "opt", "bloom", "falcon", "gpt_neox"]
MLP, ATTENTION = SiteKey(1, SiteKind.MLP), SiteKey(1, SiteKind.ATTENTION)


def resolver(model: PreTrainedModel, anatomy: Anatomy) -> Resolver:
    evidence = Evidence(model, anatomy, lambda _count, _tick: WINDOWS)
    return Resolver(
        model, anatomy, "abc", model.get_parameter, lambda _calibration: evidence, {}, {}
    )


def recipe(sparsity: dict[SiteKey, float], repair: str) -> Recipe:
    return Recipe("tiny", "abc", repair=Repair.parse(repair)).with_sparsity(sparsity)


def everywhere(anatomy: Anatomy, sparsity: float) -> dict[SiteKey, float]:
    return {site.key: sparsity for site in anatomy.sites}


def entering(model: PreTrainedModel, module: str) -> torch.Tensor:
    """Return what enters a module over all windows, [tokens, columns]."""
    found: list[torch.Tensor] = []
    hook = model.get_submodule(module).register_forward_pre_hook(
        lambda _module, args: found.append(args[0].flatten(0, -2))
    )
    model(WINDOWS)
    hook.remove()
    return found[0]


def solved(inputs: torch.Tensor, weight: torch.Tensor, plan: SitePlan) -> torch.Tensor:
    """Return the columns that stay, by the normal equations written out."""
    kept = plan.site.reads_units.indices(plan.kept)
    wide = inputs.double()
    products = wide.T @ wide
    ridge = 0.01 * products.diagonal().mean() * torch.eye(len(kept), dtype=torch.float64)
    inner = products[kept][:, kept] + ridge
    targets = products[kept] @ weight.T.double() + ridge @ weight[:, kept].T.double()
    return torch.linalg.solve(inner, targets).T


def oriented(model: PreTrainedModel, plan: SitePlan, weight: torch.Tensor) -> torch.Tensor:
    return weight if plan.site.reads_units.axis == 1 else weight.T


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", [MLP, ATTENTION])
def test_from_the_dense_model_it_is_least_squares_on_its_inputs(family: str, key: SiteKey) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    plan = resolver(model, anatomy).units(
        recipe({key: 0.5}, "ridge:prefix=dense"), random_map(anatomy)
    )
    site = plan.sites[key]
    weight = oriented(model, site, model.get_parameter(site.site.reads_units.tensor).detach())
    expected = solved(entering(model, site.site.output), weight, site)
    found = oriented(model, site, site.weights[site.site.reads_units.tensor])
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_behind_the_pruned_prefix_it_sees_what_the_pruned_model_sees(family: str) -> None:
    """Each site in turn: prune and repair all before it, and solve on what enters it then."""
    model = tiny.tiny_model(family)
    bench = Workbench(model)
    anatomy = bench.anatomy
    plan = resolver(model, anatomy).units(
        recipe(everywhere(anatomy, 0.5), "ridge"), random_map(anatomy)
    )
    for key, site in plan.sites.items():
        weight = oriented(model, site, bench.dense(site.site.reads_units.tensor).detach())
        before = {
            other: made if other < key else replace(made, **_dense_like(made))
            for other, made in plan.sites.items()
        }
        bench.apply(replace(plan, sites=before))
        expected = solved(entering(model, site.site.output), weight, site)
        bench.restore()
        found = oriented(model, site, site.weights[site.site.reads_units.tensor])
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


def _dense_like(plan: SitePlan) -> dict[str, object]:
    site = plan.site
    return {
        "kept": {part: torch.arange(count) for part, count in site.counts.items()},
        "width": site.width(site.units, site.heads_per_unit),
        "signature": DENSE,
        "weights": {},
    }


@pytest.mark.parametrize("repair", ["ridge", "ridge:prefix=dense", "bias"])
@pytest.mark.parametrize("family", FAMILIES)
def test_applied_and_restored_bit_for_bit(family: str, repair: str) -> None:
    model = tiny.tiny_model(family)
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    bench = Workbench(model)
    plan = resolver(model, bench.anatomy).units(
        recipe(everywhere(bench.anatomy, 0.5), repair), random_map(bench.anatomy)
    )
    assert all(torch.equal(model.state_dict()[name], value) for name, value in dense.items())
    bench.apply(plan)
    assert bool(model(WINDOWS).logits.isfinite().all())
    bench.restore()
    after = model.state_dict()
    assert list(after) == list(dense)
    assert all(torch.equal(after[name], value) for name, value in dense.items())


def divergence(model: PreTrainedModel, dense: torch.Tensor) -> float:
    return float((model(WINDOWS).logits - dense).square().mean())


@pytest.mark.parametrize("repair", ["ridge", "ridge:prefix=dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_brings_the_model_nearer_to_what_it_was(family: str, repair: str) -> None:
    model = tiny.tiny_model(family)
    bench = Workbench(model)
    dense = model(WINDOWS).logits.detach()
    made = resolver(model, bench.anatomy)
    left = {}
    for name in ("none", repair):
        plan = made.units(recipe({MLP: 0.4, ATTENTION: 0.4}, name), random_map(bench.anatomy))
        bench.apply(plan)
        left[name] = divergence(model, dense)
        bench.restore()
    assert left[repair] < 0.9 * left["none"]


@pytest.mark.parametrize("repair", ["ridge", "ridge:prefix=dense"])
def test_a_site_that_is_gone_stays_gone(repair: str) -> None:
    model = tiny.tiny_model("opt")
    bench = Workbench(model)
    plan = resolver(model, bench.anatomy).units(
        recipe({MLP: 1.0, ATTENTION: 1.0, SiteKey(2, SiteKind.MLP): 0.5}, repair),
        random_map(bench.anatomy),
    )
    assert not plan.sites[MLP].weights
    bench.apply(plan)
    assert bool(model(WINDOWS).logits.isfinite().all())


def test_what_was_repaired_before_is_not_solved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from pruning_core.planning import repairing

    solving: list[str] = []
    plain = repairing.without_inputs

    def counted(*arguments: object) -> torch.Tensor:
        solving.append(str(arguments[-1]))
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(repairing, "without_inputs", counted)
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    made, scores = resolver(model, anatomy), random_map(anatomy)
    for repair, again in (("ridge:prefix=dense", 1), ("ridge", 2 * (anatomy.layers - 1))):
        solving.clear()
        first = made.units(recipe(everywhere(anatomy, 0.5), repair), scores)
        assert len(solving) == len(anatomy.sites)
        changed = {**everywhere(anatomy, 0.5), ATTENTION: 0.0, MLP: 0.25}
        solving.clear()
        second = made.units(recipe(changed, repair), scores)
        # Behind the pruned prefix everything above the change is new as well.
        assert len(solving) <= again
        assert second.sites[SiteKey(0, SiteKind.MLP)] is first.sites[SiteKey(0, SiteKind.MLP)]
        assert second.signatures[MLP] != first.signatures[MLP]


def test_signatures_answer_to_all_that_a_repair_depends_on() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    made, scores = resolver(model, anatomy), random_map(anatomy)
    base = recipe({MLP: 0.5}, "ridge:prefix=dense")
    others = [
        replace(base, repair=NO_REPAIR),
        replace(base, repair=Repair.parse("ridge")),
        replace(base, repair=Repair.parse("ridge:prefix=dense,damping=0.1")),
        replace(base, repair=Repair.parse("ridge:prefix=dense,windows=65")),
        replace(base, scoring=Scoring(calibration=Calibration(seed=1))),
    ]
    found = {made.units(each, scores).signatures[MLP] for each in (base, *others)}
    assert len(found) == len(others) + 1


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("estimator", ["magnitude", "wanda", "sparsegpt"])
def test_thinned_matrices_are_solved_again_on_what_stays(pattern: str, estimator: str) -> None:
    model = tiny.tiny_model()
    bench = Workbench(model)
    dense = model(WINDOWS).logits.detach()
    made = resolver(model, bench.anatomy)
    left, plans = {}, {}
    for repair in ("none", "ridge"):
        asked = replace(
            recipe(everywhere(bench.anatomy, 0.5), repair),
            scoring=Scoring(estimator),
            pattern=Pattern.parse(pattern),
        )
        plans[repair] = made.weights(asked)
        bench.apply(plans[repair])
        left[repair] = divergence(model, dense)
        bench.restore()
    assert left["ridge"] < left["none"]
    assert plans["ridge"].removed_parameters == plans["none"].removed_parameters
    zeros: Callable[[torch.Tensor], int] = lambda weight: int((weight == 0).sum())  # noqa: E731
    for before, after in zip(
        plans["none"].sites.values(), plans["ridge"].sites.values(), strict=True
    ):
        for name, weight in after.weights.items():
            assert zeros(weight) == zeros(before.weights[name])
    first = plans["none"].sites[SiteKey(0, SiteKind.ATTENTION)].weights
    again = plans["ridge"].sites[SiteKey(0, SiteKind.ATTENTION)].weights
    assert all(torch.equal(first[name] == 0, again[name] == 0) for name in first)


def test_with_weights_of_other_matrices_a_plan_is_another() -> None:
    model = tiny.tiny_model()
    bench = Workbench(model)
    plan = resolver(model, bench.anatomy).units(
        recipe({MLP: 0.5}, "none"), random_map(bench.anatomy)
    )
    bench.apply(plan)
    names = [linear.tensor for linear in bench.anatomy.linears if linear.key.layer < 2]
    weights = {name: torch.randn_like(model.get_parameter(name)) for name in names}
    bench.restore()
    changed: UnitPlan = plan.with_weights(weights, "mark")
    assert changed.signatures[MLP] not in (plan.signatures[MLP], DENSE)
    assert changed.signatures[SiteKey(0, SiteKind.MLP)] != DENSE
    assert changed.signatures[SiteKey(2, SiteKind.MLP)] == DENSE
    assert changed.with_weights(weights, "mark").signatures != changed.signatures
    assert plan.with_weights(weights, "mark").signatures == changed.signatures
    bench.apply(changed)
    assert all(torch.equal(model.get_parameter(name), weights[name]) for name in names)
    assert changed.parameters == plan.parameters
    with pytest.raises(ValueError, match=r"lm_head\.weight is no matrix of a layer"):
        plan.with_weights({"lm_head.weight": torch.zeros(1)}, "mark")


def dense_prefix(name: str, repair: str) -> Recipe:
    model = tiny.tiny_model()
    keys = {linear.key for linear in read_anatomy(model).linears}
    params = (("prefix", "dense"),) if name == "wanda" else ()
    whole = Recipe(
        "tiny",
        "abc",
        Scoring(name, params),
        pattern=Pattern.parse("unstructured"),
        repair=Repair.parse(repair),
    )
    return whole.with_sparsity(dict.fromkeys(keys, 0.5))


def thinned(made: Recipe, windows: torch.Tensor, again: torch.Tensor | None = None) -> Weights:
    model = tiny.tiny_model()
    draw = None if again is None else lambda: again
    plan = thin(made, "abc", model, read_anatomy(model), lambda: windows, repairing=draw)
    return {name: w for mask in plan.sites.values() for name, w in mask.weights.items()}


def test_weights_are_repaired_on_windows_of_their_own() -> None:
    """The choice knows the one text, the repair the other: neither sees the other's."""
    one, other = tiny.tokens(windows=3, seed=1), tiny.tokens(windows=6, seed=2)
    model = tiny.tiny_model()
    plain = thinned(dense_prefix("wanda", "none"), one)
    found = thinned(dense_prefix("wanda", "ridge"), one, other)
    walk = Walk(model, read_anatomy(model), other)
    for layer in range(3):
        linears = [li for li in read_anatomy(model).linears if li.key.layer == layer]
        seen = walk.look(linears, hessian=True)
        for linear in linears:
            stays = plain[linear.tensor] != 0
            assert torch.equal(found[linear.tensor] != 0, stays)
            weight = model.get_parameter(linear.tensor).float()
            hessian = seen[linear.tensor].moments.hessian
            expected = under_masks(weight, hessian, stays, 0.01, "x", start=plain[linear.tensor])
            torch.testing.assert_close(found[linear.tensor].float(), expected, rtol=1e-4, atol=1e-5)
        if layer < 2:
            walk.step({})


def test_what_chooses_without_text_is_repaired_behind_the_pruned_prefix() -> None:
    windows = tiny.tokens(windows=6)
    own = thinned(dense_prefix("magnitude", "ridge"), tiny.tokens(windows=2, seed=9), windows)
    shared = thinned(dense_prefix("magnitude", "ridge"), windows)
    assert all(torch.equal(own[name], shared[name]) for name in shared)


def test_a_recipe_of_weights_looks_at_the_texts_it_names() -> None:
    model = tiny.tiny_model()
    asked: list[Calibration] = []

    def looking(calibration: Calibration) -> Evidence:
        asked.append(calibration)
        return Evidence(model, read_anatomy(model), lambda _count, _tick: WINDOWS)

    resolver = Resolver(model, read_anatomy(model), "abc", model.get_parameter, looking)
    resolver.weights(dense_prefix("wanda", "ridge:windows=7,length=24"))
    assert {(each.windows, each.length) for each in asked} == {(16, 256), (7, 24)}
    asked.clear()
    resolver.weights(dense_prefix("wanda", "ridge:windows=16,length=256"))
    assert {(each.windows, each.length) for each in asked} == {(16, 256)}
