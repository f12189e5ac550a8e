"""Several tabs, one model: numbers never mix, and a cancelled job leaves no trace."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from app.engine import ENGINE
from app.results import Measured, OnBench
from pruning_core.evaluation.protocol import Protocol
from pruning_core.jobs import Job, State
from pruning_core.planning.plan import Plan
from pruning_core.recipe import Recipe, Scoring
from tests import tiny
from tests.app.conftest import CALIBRATION

PROBE = Protocol("tiny", "Tiny probe", "embedded", 32, 4)


def recipe(model: OnBench, estimator: str, sparsity: float) -> Recipe:
    scoring = Scoring(estimator, (), CALIBRATION)
    base = Recipe(model.ref, model.fingerprint, scoring)
    return base.with_sparsity({site.key: sparsity for site in model.anatomy.sites})


def measure(owner: str, wanted: Recipe) -> Job[Measured]:
    return ENGINE.measure(owner, wanted, PROBE, allow_leak=True)


def finished(job: Job[Measured]) -> Measured:
    assert job.wait(60)
    assert job.result is not None, job.error
    return job.result


def dense_logits() -> torch.Tensor:
    """Return the logits of whatever stands on the bench when it is dense."""
    bench = ENGINE._current.bench  # type: ignore[union-attr]
    with bench.applied(None):
        return bench.model(tiny.tokens() % 100).logits


def test_two_tabs_that_drag_get_their_own_numbers(model: OnBench) -> None:
    wanted = {
        f"tab-{index}": [recipe(model, name, share / 10) for share in range(1, 7)]
        for index, name in enumerate(("fine", "random"))
    }
    truth = {r: finished(measure("truth", r)) for recipes in wanted.values() for r in recipes}
    got: dict[str, list[Measured]] = {}

    def drag(owner: str) -> None:
        got[owner] = [finished(measure(owner, r)) for r in wanted[owner]]

    tabs = [threading.Thread(target=drag, args=(owner,)) for owner in wanted]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join(120)
    for owner, recipes in wanted.items():
        assert [m.recipe for m in got[owner]] == recipes
        assert [m.pruned.quality for m in got[owner]] == [truth[r].pruned.quality for r in recipes]
    perplexities = {m.pruned.quality.perplexity for m in truth.values()}
    assert len(perplexities) == len(truth)


def test_the_newest_drag_of_a_tab_wins(model: OnBench) -> None:
    jobs = [measure("tab", recipe(model, "coarse", share / 20)) for share in range(1, 12)]
    assert finished(jobs[-1]).recipe == recipe(model, "coarse", 11 / 20)
    assert all(job.wait(60) for job in jobs)
    assert {job.state for job in jobs} <= {State.DONE, State.CANCELLED}


def test_a_measurement_cancelled_while_it_runs_leaves_the_dense_outputs(
    model: OnBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dense_logits()
    reached, go_on = threading.Event(), threading.Event()
    real = ENGINE._current.bench.apply  # type: ignore[union-attr]

    def apply_and_wait(plan: Plan) -> None:
        real(plan)
        reached.set()
        go_on.wait(60)

    monkeypatch.setattr(ENGINE._current.bench, "apply", apply_and_wait)  # type: ignore[union-attr]
    job = measure("tab", recipe(model, "magnitude", 0.55))
    assert reached.wait(60)
    assert job.state is State.RUNNING
    job.cancel()
    monkeypatch.undo()
    go_on.set()
    assert job.wait(60)
    assert job.state is State.CANCELLED
    assert torch.equal(dense_logits(), before)


@pytest.mark.parametrize("ref", ["no-such-org/no-such-model", "another-family"])
def test_a_load_that_fails_keeps_the_model_on_the_bench(
    model: OnBench, ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if ref == "another-family":
        config = {"model_type": "ctrl", "architectures": ["GPT2LMHeadModel"], "n_layer": 1}
        (tmp_path / "config.json").write_text(json.dumps(config))
        ref = str(tmp_path)
    job = ENGINE.load("tab", ref, device="cpu", dtype="auto", trust_remote_code=False)
    assert job.wait(60)
    assert job.state is State.FAILED
    assert ENGINE.model == model


def test_who_comes_second_gets_the_model_that_is_there(model: OnBench) -> None:
    job = ENGINE.load_first("another tab")
    assert job.wait(60)
    assert job.result == model


def test_a_dense_recipe_measures_what_dense_measures(model: OnBench) -> None:
    finished(measure("tab", recipe(model, "fine", 0.5)))
    back = finished(measure("tab", recipe(model, "fine", 0.0)))
    assert back.pruned.quality == back.dense.quality
    assert back.pruned.cost == back.dense.cost


def test_a_leak_is_refused_unless_allowed_and_then_marked(model: OnBench, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("one text for both: " + " ".join(f"word{n}" for n in range(3000)))
    leaky = Protocol("own", "Own text", f"file:{text}", 32, 4)
    calibration = CALIBRATION.__class__(f"file:{text}", 2, 32)
    scoring = Scoring("fine", (), calibration)
    scored = ENGINE.score("tab", model.fingerprint, (scoring,))
    assert scored.wait(60)
    wanted = Recipe(model.ref, model.fingerprint, scoring)
    refused = ENGINE.measure("tab", wanted, leaky, allow_leak=False)
    assert refused.wait(60)
    assert refused.state is State.FAILED
    assert "overlap" in str(refused.error) or "calibration" in str(refused.error)
    allowed = ENGINE.measure("tab", wanted, leaky, allow_leak=True)
    assert finished(allowed).leaked


def test_writing_compares_dense_and_pruned(model: OnBench) -> None:
    job = ENGINE.write("tab", recipe(model, "fine", 0.5), "abc abc", 5)
    assert job.wait(60)
    assert job.result is not None, job.error
    assert job.result.pruned is not None
    assert job.result.dense.tokens <= 5


def test_a_bad_model_text_keeps_the_model_on_the_bench(model: OnBench) -> None:
    job = ENGINE.load(
        "tab", "./no/such/folder", device="auto", dtype="auto", trust_remote_code=False
    )
    assert job.wait(60)
    assert job.state is State.FAILED
    assert "no" in str(job.error).lower()
    assert ENGINE.model == model


def test_a_recipe_of_another_model_is_told_so(model: OnBench) -> None:
    foreign = Recipe("other", "0000", Scoring("fine", (), CALIBRATION))
    job = measure("tab", foreign)
    assert job.wait(60)
    assert "no longer on the bench" in str(job.error)
