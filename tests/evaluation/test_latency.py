"""What is timed, and that nothing else changes. How long it takes, no test can say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation import latency
from pruning_core.evaluation.latency import (
    MEETINGS,
    Staircase,
    measure_latency,
)
from pruning_core.evaluation.workload import PASSES, Phase, Workload
from pruning_core.planning.budget import BudgetKind, cost_of, fixed_cost
from pruning_core.planning.plan import make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

SHORT = {phase: Workload(phase, batch=2, length=12) for phase in Phase}


def counting_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at the clock take a thousandth of a second: time becomes a count of looks."""
    looks = iter(range(10**9))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(looks) / 1000)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("name", [*sorted(tiny.FAMILIES), *sorted(tiny.MIXTURES), *tiny.VARIANTS])
def test_every_site_of_every_family_is_timed_from_dense_downwards(name: str, phase: Phase) -> None:
    bench = Workbench(tiny.tiny_model(name))
    measured = measure_latency(bench, SHORT[phase], at_most=4)
    assert list(measured.sites) == [site.key for site in bench.anatomy.sites]
    for site in bench.anatomy.sites:
        staircase = measured.sites[site.key]
        assert staircase.kind is site.key.kind
        assert staircase.widths[0] == site.width(site.units, site.heads_per_unit)
        assert (staircase.widths[-1].units == 0) == site.removable
        assert len(staircase.widths) == len(staircase.milliseconds) <= 4
        assert all(math.isfinite(value) and value > 0 for value in staircase.milliseconds)
        assert measured.at(site, staircase.widths[1]) == staircase.milliseconds[1]
    assert math.isfinite(measured.rest)
    assert measured.rest > 0


@pytest.mark.parametrize("phase", Phase)
def test_the_parts_add_up_to_a_pass_per_token(
    phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting_clock(monkeypatch)
    measured = measure_latency(Workbench(tiny.tiny_model()), SHORT[phase])
    # From one look to the next is a millisecond: one inside each of six sites, seven around them.
    tokens = 24 if phase is Phase.PREFILL else 2
    for staircase in measured.sites.values():
        assert staircase.milliseconds == pytest.approx([1 / tokens] * len(staircase.widths))
    assert measured.rest == pytest.approx(7 / tokens)


def test_a_pass_reads_the_batch_and_length_asked_for() -> None:
    model = tiny.tiny_model()
    seen: list[tuple[torch.Size, int]] = []

    def look(_module: torch.nn.Module, _args: object, kwargs: dict[str, object]) -> None:
        cache = kwargs.get("past_key_values")
        seen.append((kwargs["input_ids"].shape, cache.get_seq_length() if cache else 0))

    model.register_forward_pre_hook(look, with_kwargs=True)
    measure_latency(Workbench(model), Workload(Phase.PREFILL, 3, 10))
    assert set(seen) == {(torch.Size([3, 10]), 0)}
    seen.clear()
    measure_latency(Workbench(model), Workload(Phase.DECODE, 3, 10))
    passes = [(torch.Size([3, 1]), 10 + i) for i in range(1 + PASSES[Phase.DECODE])]
    a_round = [(torch.Size([3, 10]), 0), *passes]
    assert seen == a_round * (len(seen) // len(a_round))


def test_sites_of_one_shape_share_a_staircase_and_others_do_not() -> None:
    bench = Workbench(tiny.tiny_model("gemma3_text"))
    sites = measure_latency(bench, SHORT[Phase.PREFILL], at_most=3).sites
    attention = [sites[SiteKey(layer, SiteKind.ATTENTION)] for layer in range(3)]
    # Sliding, full, sliding.
    assert attention[0] is attention[2]
    assert attention[0] is not attention[1]
    assert len({id(sites[SiteKey(layer, SiteKind.MLP)]) for layer in range(3)}) == 1


def test_every_width_meets_enough_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(tiny.tiny_model())
    dealt: dict[tuple[SiteKind, int], set[tuple[int, SiteKey]]] = {}
    turns = iter(range(1000))
    apply = bench.apply

    def listening(plan: object) -> None:
        turn = next(turns)
        for key, site in plan.sites.items():
            dealt.setdefault((key.kind, site.width.parameters), set()).add((turn, key))
        apply(plan)

    monkeypatch.setattr(bench, "apply", listening)
    measured = measure_latency(bench, SHORT[Phase.PREFILL], multiple=8, at_most=5)
    timed = {(s.kind, w.parameters) for s in measured.sites.values() for w in s.widths}
    assert set(dealt) == timed
    assert min(len(meetings) for meetings in dealt.values()) >= MEETINGS
    channels = measured.sites[SiteKey(0, SiteKind.MLP)].widths
    assert [width.units for width in channels] == [40, 32, 16, 0]


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("last", [0, 1, 5, None])
def test_the_model_comes_back_as_it_was(applied: bool, last: int | None) -> None:
    model, ids = tiny.tiny_model(), tiny.tokens()
    bench = Workbench(model)
    if applied:
        recipe = Recipe("tiny", "abc").with_sparsity({SiteKey(1, SiteKind.MLP): 0.5})
        bench.apply(make_plan(recipe, random_map(bench.anatomy), bench.anatomy))
    plan, logits = bench.plan, model(ids).logits
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        if done == last:
            raise Cancelled

    if last is None:
        measure_latency(bench, SHORT[Phase.PREFILL], tick=tick)
    else:
        with pytest.raises(Cancelled):
            measure_latency(bench, SHORT[Phase.PREFILL], tick=tick)
    assert bench.plan is plan
    assert torch.equal(model(ids).logits, logits)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_every_pass_is_told_before_it_starts() -> None:
    heard: list[tuple[str, int, int, str]] = []
    measure_latency(
        Workbench(tiny.tiny_model()),
        Workload(Phase.DECODE, 1, 8),
        tick=lambda *words: heard.append(words),
    )
    total = heard[0][2]
    assert heard == [("timing", i, total, "decode, batch 1, length 8") for i in range(total + 1)]
    assert total % (1 + PASSES[Phase.DECODE]) == 0


def test_between_measured_widths_lies_a_straight_line() -> None:
    site = Workbench(tiny.tiny_model()).anatomy.by_key[SiteKey(0, SiteKind.MLP)]
    widths = tuple(site.width(units, 0) for units in (40, 20, 10))
    stairs = Staircase(SiteKind.MLP, Workload(), widths, (4.0, 5.0, 1.0))
    assert [stairs.at(width) for width in widths] == [4, 5, 1]
    assert stairs.at(site.width(15, 0)) == pytest.approx(3)
    assert stairs.at(site.width(30, 0)) == pytest.approx(4.5)


def test_it_serves_as_a_budget() -> None:
    bench = Workbench(tiny.tiny_model())
    measured = measure_latency(bench, SHORT[Phase.DECODE])
    site = bench.anatomy.sites[0]
    width = measured.sites[site.key].widths[0]
    cost = cost_of(BudgetKind.LATENCY, site, width, bench.anatomy, 12, measured)
    assert cost == measured.sites[site.key].milliseconds[0]
    assert fixed_cost(BudgetKind.LATENCY, bench.anatomy, 0, 12, measured) == measured.rest


def test_a_length_beyond_the_model_is_refused_with_one_that_is_not() -> None:
    bench = Workbench(tiny.tiny_model("opt"))
    with pytest.raises(PrunescopeError, match="at most 117"):
        measure_latency(bench, Workload(Phase.DECODE, 1, 120))
    measure_latency(bench, Workload(Phase.DECODE, 1, 117), at_most=3)
    with pytest.raises(PrunescopeError, match="at most 128"):
        measure_latency(bench, Workload(Phase.PREFILL, 1, 129))


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_workload_of_nothing_is_refused(value: int) -> None:
    for name in ("batch", "length"):
        with pytest.raises(PrunescopeError, match=f"The {name} to time at"):
            replace(Workload(), **{name: value})
