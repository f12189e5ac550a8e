"""The loop: what it learns, that it leaves no trace, and that a killed run comes to the same."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pruning_core.errors import PrunescopeError
from pruning_core.planning.plan import Plan
from pruning_core.progress import Cancelled, Enough
from pruning_core.recovery.course import Course
from pruning_core.recovery.folder import RECORD
from pruning_core.recovery.settings import Settings
from pruning_core.recovery.training import (
    RECOVERING,
    Pace,
    Point,
    Recovered,
    recover,
    recovered,
)
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.recovery.subjects import (
    assert_same,
    bench_of,
    lessons,
    logits,
    narrowed,
    settings,
    state_of,
    thinned,
)

PROBE = tiny.tokens(2, 12, seed=9)
FAMILIES = [*sorted(tiny.FAMILIES), *sorted(tiny.MIXTURES)]


def train(
    bench: Workbench, plan: Plan, folder: Path, how: Settings | None = None, **options: Any
) -> Recovered:
    options = {"probe": PROBE, "pace": Pace(2, 2), **options}
    return recover(bench, plan, lessons(), how or settings(), folder, **options)


def stop_at(step: int, error: type[Exception]) -> Callable[..., None]:
    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        assert stage == RECOVERING
        if done == step:
            raise error

    return tick


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "units") for name in FAMILIES), *((n, "weights") for n in ("llama", "gpt2", "phi3"))],
)
def test_every_family_learns_and_nothing_else_is_touched(
    name: str, kind: str, tmp_path: Path
) -> None:
    bench = bench_of(name)
    dense = state_of(bench.model)
    plan = narrowed(bench) if kind == "units" else thinned(bench)
    bench.apply(plan)
    pruned, computed = state_of(bench.model), logits(bench.model)
    # Every step sees every sample, so that losses can be compared.
    how = settings(steps=3, batch=4, micro=4, dropout=0.0)
    done = recover(bench, plan, lessons(4), how, tmp_path)
    assert bench.plan is plan
    assert_same(pruned, state_of(bench.model))
    assert torch.equal(logits(bench.model), computed)
    losses = [loss for _step, loss, _perplexity in done.record["curve"][1:]]
    assert losses[-1] < losses[0]
    bench.apply(done.plan)
    assert not torch.equal(logits(bench.model), computed)
    bench.restore()
    assert_same(dense, state_of(bench.model))


@pytest.mark.parametrize("kind", ["units", "weights"])
def test_what_is_measured_on_the_way_is_the_merged_model(kind: str, tmp_path: Path) -> None:
    from pruning_core.evaluation.perplexity import measure_windows

    bench = bench_of()
    plan = narrowed(bench) if kind == "units" else thinned(bench)
    points: list[Point] = []
    done = train(bench, plan, tmp_path, heard=points.append)
    assert [point.step for point in points] == [0, 1, 2, 3, 4]
    assert [point.perplexity is None for point in points] == [False, True, False, True, False]
    assert points[0].loss is None
    assert done.record["curve"] == [point.as_list() for point in points]
    for point, applied in ((points[0], plan), (points[-1], done.plan)):
        bench.apply(applied)
        assert measure_windows(bench.model, PROBE).perplexity == pytest.approx(
            point.perplexity, rel=1e-5
        )


def test_masks_are_exact_after_training(tmp_path: Path) -> None:
    bench = bench_of()
    plan = thinned(bench)
    done = train(bench, plan, tmp_path)
    assert done.record["masked"]
    for key, mask in plan.sites.items():
        for tensor, thin in mask.weights.items():
            now = done.plan.sites[key].weights[tensor]  # type: ignore[attr-defined]
            assert torch.equal(now == 0, thin == 0)
            assert not torch.equal(now, thin)


def test_distillation_draws_towards_the_dense_model(tmp_path: Path) -> None:
    bench = bench_of()
    dense = logits(bench.model).log_softmax(-1)
    plan = narrowed(bench)

    def apart(applied: Plan) -> float:
        bench.apply(applied)
        own = logits(bench.model).log_softmax(-1)
        return float((dense.exp() * (dense - own)).sum(-1).mean())

    how = settings(distill=1.0, steps=20, rate=2e-2, dropout=0.0)
    bench.apply(plan)
    done = train(bench, plan, tmp_path / "a", how, pace=Pace(100, 100))
    assert apart(done.plan) < 0.8 * apart(plan)
    without = train(bench, plan, tmp_path / "b", settings(steps=20, rate=2e-2), pace=Pace(100, 100))
    assert apart(without.plan) > apart(done.plan)


def test_the_same_seed_comes_to_the_same_and_micro_batches_change_nothing(tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    curves = []
    for number, how in enumerate(
        [settings(), settings(), settings(dropout=0.0), settings(dropout=0.0, micro=4)]
    ):
        torch.manual_seed(number)  # whatever else draws must not matter
        curves.append(train(bench, plan, tmp_path / str(number), how).record["curve"])
    assert curves[0] == curves[1] != curves[2]
    for one, other in zip(curves[2], curves[3], strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_every_epoch_goes_through_all_samples_in_an_order_of_its_own() -> None:
    bench = bench_of()
    given = lessons(6)
    course = Course.__new__(Course)
    course.settings, course._samples = settings(batch=4, seed=1), given.samples
    places = {id(sample): place for place, sample in enumerate(given.samples)}
    seen = [places[id(sample)] for number in range(6) for sample in course._batch(number)]
    epochs = [seen[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert bench.plan is None


# --- stopping and going on -----------------------------------------------------------------------


def test_cancelling_leaves_the_model_unharmed_and_the_last_checkpoint(tmp_path: Path) -> None:
    bench = bench_of()
    dense = state_of(bench.model)
    plan = narrowed(bench)
    with pytest.raises(Cancelled):
        train(bench, plan, tmp_path, tick=stop_at(3, Cancelled))
    assert bench.plan is None
    assert_same(dense, state_of(bench.model))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000002"]


def test_an_error_takes_everything_back(tmp_path: Path) -> None:
    bench = bench_of()
    before = narrowed(bench)
    bench.apply(before)
    state = state_of(bench.model)

    def heard(point: Point) -> None:
        if point.step == 1:
            raise RuntimeError("a listener fails")

    with pytest.raises(RuntimeError, match="listener"):
        train(bench, thinned_beside(), tmp_path, settings(distill=0.5), heard=heard)
    assert bench.plan is before
    after = state_of(bench.model)
    # Narrow tensors are gathered anew, and what stands in for a site that has gone is made anew.
    for held in (state, after):
        held.pop("own")
        held.pop("modules")
    assert_same(state, after)


def thinned_beside() -> Plan:
    """A plan of the same tiny model, made on another of the same numbers."""
    return thinned(bench_of())


def test_enough_keeps_what_was_learned(tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    done = train(bench, plan, tmp_path, tick=stop_at(3, Enough))
    assert done.record["ended_early"]
    assert (done.record["steps"], done.record["of_steps"]) == (3, 4)
    whole = train(bench, plan, tmp_path.with_name("whole"))
    assert not whole.record["ended_early"]
    assert [p[:2] for p in done.record["curve"]] == [p[:2] for p in whole.record["curve"][:4]]


def test_enough_before_the_first_step_is_cancelled(tmp_path: Path) -> None:
    bench = bench_of()
    with pytest.raises(Cancelled):
        train(bench, narrowed(bench), tmp_path, tick=stop_at(0, Enough))
    assert not list(tmp_path.iterdir())


def test_enough_at_the_very_end_is_no_loss(tmp_path: Path) -> None:
    bench = bench_of()
    done = train(bench, narrowed(bench), tmp_path, tick=stop_at(4, Enough))
    assert not done.record["ended_early"]


@pytest.mark.parametrize("distill", [0.0, 0.5])
def test_a_resumed_run_comes_to_the_same(distill: float, tmp_path: Path) -> None:
    bench = bench_of()
    plan = thinned(bench)
    how = settings(distill=distill, steps=6)
    whole = train(bench, plan, tmp_path / "whole", how)
    for step in (3, 5):
        with pytest.raises(Cancelled):
            train(bench, plan, tmp_path / "cut", how, tick=stop_at(step, Cancelled), resume=True)
    points: list[Point] = []
    done = train(bench, plan, tmp_path / "cut", how, resume=True, heard=points.append)
    assert_equal(whole, done)
    assert [point.as_list() for point in points] == whole.record["curve"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.recovery.subjects import bench_of, narrowed, settings
from tests.recovery.test_training import train

def tick(stage, done, total, note=""):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

bench = bench_of()
train(bench, narrowed(bench), Path(sys.argv[1]), settings(steps=6), tick=tick)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == ["checkpoint-00000004"]
    bench = bench_of()
    plan = narrowed(bench)
    done = train(bench, plan, folder, settings(steps=6), resume=True)
    whole = train(bench, plan, tmp_path / "whole", settings(steps=6))
    assert_equal(whole, done)


def assert_equal(whole: Recovered, done: Recovered) -> None:
    """Equal to the last bit, but for the time it took."""
    assert done.record["curve"] == whole.record["curve"]
    assert done.record["adapters"] == whole.record["adapters"]
    for key, site in whole.plan.sites.items():  # type: ignore[attr-defined]
        for tensor, value in site.weights.items():
            assert torch.equal(value, done.plan.sites[key].weights[tensor])  # type: ignore[attr-defined]
    assert done.plan.signatures == whole.plan.signatures


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    first = train(bench, plan, tmp_path)
    again = train(bench, plan, tmp_path, resume=True, heard=lambda _: pytest.fail("trained"))
    assert again.record == first.record
    assert_equal(first, again)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"how": settings(rate=3e-2)}, r"other settings \(\{'rate': 0.01\}; here .* 0.03"),
        ({"lessons": lessons(seed=4)}, "another text"),
        ({"plan": "thinned"}, "another recipe"),
    ],
)
def test_what_was_begun_otherwise_is_not_gone_on_with(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    with pytest.raises(Cancelled):
        train(bench, plan, tmp_path, tick=stop_at(3, Cancelled))
    other = thinned(bench) if "plan" in changed else plan
    with pytest.raises(PrunescopeError, match=said):
        recover(
            bench,
            other,
            changed.get("lessons", lessons()),
            changed.get("how", settings()),
            tmp_path,
            resume=True,
        )


@pytest.mark.parametrize("damage", ["moments", "curve", "state", "adapters"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    with pytest.raises(Cancelled):
        train(bench, plan, tmp_path, tick=stop_at(3, Cancelled))
    folder = tmp_path / "checkpoint-00000002"
    state = folder / "state.json"
    if damage == "moments":
        (folder / "optimiser.safetensors").write_bytes(b"nothing")
    elif damage == "curve":
        state.write_text(json.dumps({**json.loads(state.read_text()), "curve": []}))
    elif damage == "state":
        state.write_text("{")
    else:
        (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(PrunescopeError, match=r"(damaged|cannot be read|can't be used)"):
        train(bench, plan, tmp_path, resume=True)
    assert bench.plan is None


# --- the result ----------------------------------------------------------------------------------


def test_a_finished_recovery_is_merged_again_from_its_folder(tmp_path: Path) -> None:
    bench = bench_of()
    plan = thinned(bench)
    done = train(bench, plan, tmp_path)
    again = recovered(bench, plan, tmp_path)
    assert_equal(done, again)
    assert json.loads((tmp_path / RECORD).read_text()) == done.record
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    for name in ("fingerprint", "recipe", "plan", "settings", "seconds", "versions"):
        assert done.record[name]
    assert load_file(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("fingerprint", "def", "another model"),
        ("recipe", "0123", "another recipe"),
        ("plan", "0123", "another choice of what leaves"),
        ("dtype", "bfloat16", "another number format"),
        ("adapters", "0123", "not those that its record is of"),
        ("settings", {"rank": 0}, "rank is 0"),
        ("settings", {"alpha": 9}, "not those that its record is of"),
    ],
)
def test_a_recovery_of_something_else_is_refused(
    name: str, value: object, said: str, tmp_path: Path
) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    train(bench, plan, tmp_path)
    path = tmp_path / RECORD
    values = json.loads(path.read_text())
    if name == "settings":
        value = {**values["settings"], **value}  # type: ignore[dict-item]
    path.write_text(json.dumps({**values, name: value}))
    with pytest.raises(PrunescopeError, match=said):
        recovered(bench, plan, tmp_path)


@pytest.mark.parametrize("perplexity", [math.inf, math.nan])
def test_a_perplexity_beyond_all_numbers_is_kept_as_none(perplexity: float) -> None:
    assert Point(3, 9.5, perplexity).as_list() == [3, 9.5, None]


# --- what cannot be ------------------------------------------------------------------------------


def test_float16_is_refused(tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    bench.model.to(torch.float16)
    with pytest.raises(PrunescopeError, match="float16 can't be trained"):
        train(bench, plan, tmp_path)


def test_samples_longer_than_the_model_s_positions_are_refused(tmp_path: Path) -> None:
    bench = bench_of()
    with pytest.raises(PrunescopeError, match="128 positions"):
        train(bench, narrowed(bench), tmp_path, settings(length=129))


def test_training_that_goes_astray_is_refused_in_a_sentence(tmp_path: Path) -> None:
    bench = bench_of()
    bench.model.get_parameter("model.norm.weight").fill_(float("nan"))
    with pytest.raises(PrunescopeError, match="Training went astray: the loss of step 1 is nan"):
        train(bench, narrowed(bench), tmp_path, probe=None)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    bench = bench_of()
    plan = narrowed(bench)
    train(bench, plan, tmp_path)
    with pytest.raises(PrunescopeError, match="holds a recovery already"):
        train(bench, plan, tmp_path)


@pytest.mark.parametrize("pace", [{"probe": 0}, {"save": 0}])
def test_a_pace_of_nothing_is_refused(pace: dict[str, int]) -> None:
    with pytest.raises(PrunescopeError, match="must be 1 or more"):
        Pace(**pace)
