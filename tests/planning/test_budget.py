from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Site, Width, read_anatomy
from pruning_core.planning.budget import BudgetKind, Limits, cost_of, fixed_cost, site_widths
from pruning_core.planning.plan import DENSE, Cost, UnitPlan, dense_cost, make_plan
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.repair import NO_REPAIR, Repair, RepairKind
from tests import tiny
from tests.maps import random_map

DENSE_BYTES, TOKENS = 1_000_000, 50
BIAS = Repair(RepairKind.BIAS)
COUNTED = (BudgetKind.PARAMETERS, BudgetKind.BYTES, BudgetKind.OPERATIONS)
MODELS = ["llama", "qwen2", "phi3", "bloom", "opt", "gpt2", "falcon", "qwen3_moe", "baichuan"]
WIDE = read_anatomy(tiny.tiny_model(intermediate_size=200))
MLP, ATTENTION = WIDE.of_kind(SiteKind.MLP)[0], WIDE.of_kind(SiteKind.ATTENTION)[0]


def random_plan(anatomy: Anatomy, seed: int, repair: Repair = NO_REPAIR) -> UnitPlan:
    draw = random.Random(seed)
    sparsity = {site.key: draw.choice([0.0, 1.0, draw.random()]) for site in anatomy.sites}
    recipe = replace(Recipe("tiny", "abc").with_sparsity(sparsity), repair=repair)
    scores = random_map(anatomy, seed)
    plan = make_plan(recipe, scores, anatomy)
    if repair.kind is not RepairKind.BIAS:
        return plan
    bias = torch.zeros(anatomy.hidden_size)
    repaired = {
        key: replace(site, bias=bias) for key, site in plan.sites.items() if site.signature != DENSE
    }
    return replace(plan, sites={**plan.sites, **repaired})


def counted(cost: Cost, kind: BudgetKind) -> int:
    return int(getattr(cost, kind))


def summed(plan: UnitPlan, kind: BudgetKind, repaired: frozenset[SiteKey] = frozenset()) -> float:
    """Return what a plan's sites and the rest of the model cost together."""
    sites = sum(
        cost_of(
            kind,
            site.site,
            site.width,
            plan.anatomy,
            TOKENS,
            repair=BIAS if key in repaired else NO_REPAIR,
        )
        for key, site in plan.sites.items()
    )
    return sites + fixed_cost(kind, plan.anatomy, DENSE_BYTES, TOKENS)


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("model", MODELS)
def test_sites_and_the_rest_add_up_to_what_a_plan_costs(model: str, kind: BudgetKind) -> None:
    anatomy = read_anatomy(tiny.tiny_model(model))
    for seed in range(6):
        plan = random_plan(anatomy, seed)
        assert summed(plan, kind) == counted(plan.cost(DENSE_BYTES, TOKENS), kind)
    assert summed(make_plan(Recipe("tiny", "abc"), random_map(anatomy), anatomy), kind) == counted(
        dense_cost(anatomy, DENSE_BYTES, TOKENS), kind
    )


@pytest.mark.parametrize("kind", COUNTED)
@pytest.mark.parametrize("model", ["mistral", "llama", "qwen2"])
def test_biases_that_a_repair_adds_are_counted(model: str, kind: BudgetKind) -> None:
    anatomy = read_anatomy(tiny.tiny_model(model))
    repaired = frozenset(site.key for site in anatomy.sites)
    for seed in range(6):
        plan = random_plan(anatomy, seed, BIAS)
        assert summed(plan, kind, repaired) == counted(plan.cost(DENSE_BYTES, TOKENS), kind)


def test_the_repair_test_has_something_to_count() -> None:
    anatomy = read_anatomy(tiny.tiny_model("mistral"))
    assert any(random_plan(anatomy, seed, BIAS).added_parameters for seed in range(6))


@dataclass(frozen=True)
class Milliseconds:
    rest: float = 7.0

    def at(self, site: Site, width: Width) -> float:
        return site.key.layer + width.units / 8


def test_milliseconds_are_looked_up() -> None:
    site = WIDE.by_key[SiteKey(2, SiteKind.MLP)]
    cost = cost_of(BudgetKind.LATENCY, site, site.width(16, 0), WIDE, TOKENS, Milliseconds())
    assert cost == 4
    assert fixed_cost(BudgetKind.LATENCY, WIDE, DENSE_BYTES, TOKENS, Milliseconds()) == 7


@pytest.mark.parametrize(
    ("kind", "said"),
    [(BudgetKind.LATENCY, "Measure the latency"), (BudgetKind.PERPLEXITY, "ceiling on perplexity")],
)
def test_what_has_no_cost_is_refused(kind: BudgetKind, said: str) -> None:
    with pytest.raises(PrunescopeError, match=said):
        cost_of(kind, MLP, MLP.width(16, 0), WIDE, TOKENS)
    with pytest.raises(PrunescopeError, match=said):
        fixed_cost(kind, WIDE, DENSE_BYTES, TOKENS)


LIMITS = st.builds(
    Limits,
    st.fixed_dictionaries({}, optional={kind: st.floats(0, 1) for kind in SiteKind}),
    st.sampled_from([1, 3, 8, 64, 128, 512]),
    st.booleans(),
)


@given(LIMITS, st.integers(3, 60), st.sampled_from([MLP, ATTENTION]))
def test_widths_keep_to_the_limits(limits: Limits, at_most: int, site: Site) -> None:
    widths = site_widths(site, limits, at_most=at_most)
    assert len(widths) <= at_most
    assert widths[0].sparsity == 0
    assert [w.sparsity for w in widths] == sorted({w.sparsity for w in widths})
    assert (widths[-1].units == 0) == limits.may_remove
    share = limits.minimum.get(site.key.kind, 0.0)
    for width in widths[1:]:
        assert site.snap(width.sparsity) == width, "a recipe must come to the very width"
        if width.units and site is MLP:
            assert width.units % limits.multiple == 0
            assert width.units >= share * 200 - 1e-6
        elif width.units:
            assert width.units * width.heads >= share * 9 - 1e-6


def test_an_mlp_has_every_multiple_where_there_is_room() -> None:
    units = [width.units for width in site_widths(MLP, Limits({SiteKind.MLP: 0.3}, 8))]
    assert units == list(range(200, 63, -8))  # 60 must stay


def test_a_dense_width_that_is_no_multiple_stays_allowed() -> None:
    assert [w.units for w in site_widths(MLP, Limits(multiple=64))] == [200, 192, 128, 64]
    assert [w.units for w in site_widths(MLP, Limits(multiple=512))] == [200]


def test_too_many_widths_are_thinned_to_a_coarser_multiple() -> None:
    units = [w.units for w in site_widths(MLP, Limits(may_remove=True), at_most=22)]
    assert units == [*range(200, 0, -10), 0]
    units = [w.units for w in site_widths(MLP, Limits(multiple=8), at_most=9)]
    assert units == [200, 192, 168, 144, 120, 96, 72, 48, 24]


def test_attention_has_its_ladder() -> None:
    every = site_widths(ATTENTION, Limits(may_remove=True))
    assert every == ATTENTION.ladder
    assert site_widths(ATTENTION, Limits()) == ATTENTION.ladder[:-1]
    # Of nine query heads in three groups at least half: five.
    half = site_widths(ATTENTION, Limits({SiteKind.ATTENTION: 0.5}))
    assert [(w.units, w.heads) for w in half] == [(3, 3), (3, 2), (2, 3)]


def test_what_cannot_be_removed_is_not() -> None:
    site = read_anatomy(tiny.tiny_model("baichuan")).of_kind(SiteKind.ATTENTION)[0]
    assert not site.removable
    assert site_widths(site, Limits(may_remove=True))[-1].units == 1


def test_a_locked_site_has_the_width_it_has() -> None:
    limits = Limits({SiteKind.MLP: 0.9}, 64)
    assert site_widths(MLP, limits, locked_at=0.5) == (MLP.snap(0.5),)
    assert site_widths(ATTENTION, limits, locked_at=1.0) == (ATTENTION.width(0, 0),)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_minimum_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(PrunescopeError, match="minimum width of mlp"):
        Limits({SiteKind.MLP: share})


@pytest.mark.parametrize("multiple", [0, -8, 2.5, True])
def test_a_multiple_that_is_none_is_refused(multiple: int) -> None:
    with pytest.raises(PrunescopeError, match="multiple"):
        Limits(multiple=multiple)
