"""Agreement with the dense model: by hand, against two models side by side, and streamed."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pruning_core.calibration.windows import Span, whole_spans
from pruning_core.evaluation.agreement import agreement_of, measure_beside
from pruning_core.evaluation.perplexity import measure_spans
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, Scoring, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

SPANS = (*whole_spans(tiny.tokens(windows=4, length=20)), Span(tiny.tokens(1, 12)[0], 5))


def plan_of(bench: Workbench, sparsity: float) -> Plan:
    sites = {site.key: sparsity for site in bench.anatomy.sites if site.key.kind is SiteKind.MLP}
    recipe = Recipe("tiny", "abc", Scoring("random")).with_sparsity(sites)
    return make_plan(recipe, random_map(bench.anatomy), bench.anatomy)


def test_by_hand() -> None:
    dense = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]).log()
    pruned = torch.tensor([[0.25, 0.75], [0.9, 0.1], [0.6, 0.4]]).log()
    found = agreement_of(dense, pruned)
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    last = 0.2 * math.log(1 / 3) + 0.8 * math.log(2)
    assert found.divergence == pytest.approx((first + last) / 3, rel=1e-5)
    assert found.highest == pytest.approx(last, rel=1e-5)
    # Of equals the first is the prediction, so the first row agrees no more than the last.
    assert (found.same, found.scored) == (1, 3)


def test_logits_may_be_moved_by_any_constant() -> None:
    draw = torch.Generator().manual_seed(0)
    dense, pruned = torch.randn(2, 300, 1000, generator=draw)
    found = agreement_of(dense, pruned)
    moved = agreement_of(dense + 300, pruned - 100)
    assert moved.divergence == pytest.approx(found.divergence, rel=1e-3)
    expected = F.kl_div(
        pruned.log_softmax(-1), dense.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert found.divergence == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "granite", "phi3", "baichuan"])
@pytest.mark.parametrize("state_bytes", [1, 1 << 20])
def test_equals_two_models_side_by_side(family: str, state_bytes: int) -> None:
    bench = Workbench(tiny.tiny_model(family))
    plan = plan_of(bench, 0.5)
    twin = tiny.tiny_model(family)
    found = measure_beside(bench, plan, SPANS, state_bytes=state_bytes)
    assert bench.plan is None
    bench.apply(plan)
    assert found.dense == measure_spans(twin, SPANS)
    assert found.pruned == measure_spans(bench.model, SPANS)
    for span, window in zip(SPANS, found.agreement.windows, strict=True):
        here = slice(-span.scored - 1, -1)
        p = twin(span.ids[None]).logits[0, here].log_softmax(-1)
        q = bench.model(span.ids[None]).logits[0, here].log_softmax(-1)
        each = (p.exp() * (p - q)).sum(-1)
        assert window.divergence == pytest.approx(each.mean().item(), rel=1e-4)
        assert window.highest == pytest.approx(each.max().item(), rel=1e-4)
        assert window.same == (p.argmax(-1) == q.argmax(-1)).sum()
    assert found.agreement.tokens == 4 * 19 + 5
    assert found.agreement.divergence > 0


def test_a_plan_that_takes_nothing_agrees_wholly() -> None:
    bench = Workbench(tiny.tiny_model())
    found = measure_beside(bench, plan_of(bench, 0.0), SPANS)
    assert found.agreement.divergence == 0
    assert found.agreement.same == 1
    assert found.dense == found.pruned


def test_the_plan_before_comes_back_when_it_is_called_off() -> None:
    bench = Workbench(tiny.tiny_model())
    before = plan_of(bench, 0.25)
    bench.apply(before)

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if note == "pruned":
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_beside(bench, plan_of(bench, 0.5), SPANS, tick=stop)
    assert bench.plan is before


def test_every_pass_is_told_once_in_order() -> None:
    bench = Workbench(tiny.tiny_model())
    heard: list[int] = []

    def listen(_stage: str, done: int, total: int, note: str = "") -> None:
        assert total == 2 * len(SPANS)
        heard.append(done)

    measure_beside(bench, plan_of(bench, 0.5), SPANS, state_bytes=15_000, tick=listen)
    assert heard == list(range(2 * len(SPANS) + 1))
