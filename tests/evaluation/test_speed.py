"""Two speeds and their ratio. How large they are, no test can say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation import speed
from pruning_core.evaluation.speed import TIMED, TURNS, measure_speeds
from pruning_core.evaluation.workload import Phase, Workload
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

SHORT = {phase: Workload(phase, batch=2, length=12) for phase in Phase}


@pytest.fixture
def bench() -> Workbench:
    return Workbench(tiny.tiny_model())


def half(bench: Workbench) -> Plan:
    shares = {site.key: 0.5 for site in bench.anatomy.sites}
    recipe = Recipe("tiny", "abc").with_sparsity(shares)
    return make_plan(recipe, random_map(bench.anatomy), bench.anatomy)


@pytest.mark.parametrize("phase", Phase)
def test_the_two_take_turns_and_the_bench_is_left_as_it_was(bench: Workbench, phase: Phase) -> None:
    plan, seen = half(bench), []
    bench.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append((bench.plan, kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    found = measure_speeds(bench, plan, SHORT[phase])
    assert bench.plan is None
    assert min(found.dense, found.pruned) > 0
    assert found.times.low <= found.times.value <= found.times.high
    timed = [who for who, shape in seen if shape[1] == (12 if phase is Phase.PREFILL else 1)]
    turn = [None] * (1 + TIMED[phase]) + [plan] * (1 + TIMED[phase])
    assert timed == turn * TURNS


def test_ratios_are_of_neighbours(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever slows a turn slows both sides of its ratio: twice as fast stays twice as fast."""
    passes = 1 + TIMED[Phase.PREFILL]
    times: Iterator[float] = iter(
        seconds
        for turn in range(TURNS)
        for side in (2.0, 1.0)
        for seconds in [99.0, *[side * (1 + turn)] * (passes - 1)]
    )
    monkeypatch.setattr(speed, "_seconds", lambda _forward, _device: next(times))
    found = measure_speeds(bench, half(bench), SHORT[Phase.PREFILL])
    assert found.times.value == found.times.low == found.times.high == pytest.approx(2)
    assert found.dense == pytest.approx(24 / 6)  # the median turn takes three times as long
    assert found.pruned == pytest.approx(24 / 3)


def test_it_can_be_stopped_before_every_pass(bench: Workbench) -> None:
    total = 2 * TURNS * (1 + TIMED[Phase.PREFILL])
    passes: list[int] = []
    bench.model.register_forward_pre_hook(lambda *_args: passes.append(1))
    for last in (0, 5, total - 1):
        passes.clear()

        def stop(_stage: str, done: int, _total: int, _note: str = "", last: int = last) -> None:
            if done == last:
                raise Cancelled

        with pytest.raises(Cancelled):
            measure_speeds(bench, half(bench), SHORT[Phase.PREFILL], stop)
        assert len(passes) == last
        assert bench.plan is None


def test_a_length_beyond_the_model_is_refused(bench: Workbench) -> None:
    with pytest.raises(PrunescopeError, match="Choose a length of at most 128"):
        measure_speeds(bench, half(bench), Workload(length=129))
    assert torch.is_grad_enabled()
