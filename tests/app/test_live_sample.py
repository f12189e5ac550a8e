"""A task that follows the slider: its card, its numbers, and what is kept with the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.asking import Questions
from app.components.present.verdict import shares
from app.engine import ENGINE
from app.probes import SEED
from app.results import Measured, OnBench, Sample
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.protocol import protocol
from pruning_core.history import History
from pruning_core.jobs import State
from pruning_core.recipe import Recipe, Scoring
from tests.app import task_rows
from tests.app.conftest import CALIBRATION
from tests.app.tabs import checked, close, new_tab, open_page, settle, shown


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    task_rows.write(tmp_path)
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def at(history: History) -> Iterator[AppTest]:
    test = settle(open_page(new_tab(), "tune"))
    yield test
    close(test)


def recipe(model: OnBench) -> Recipe:
    base = Recipe(model.ref, model.fingerprint, Scoring("magnitude", (), CALIBRATION))
    return base.with_sparsity({site.key: 0.5 for site in model.anatomy.sites})


def measure(model: OnBench, sample: Sample, *, allow_leak: bool = False) -> Measured:
    ENGINE.score("test", model.fingerprint, (recipe(model).scoring,)).wait(60)
    job = ENGINE.measure(
        "test", recipe(model), protocol("probe"), allow_leak=allow_leak, sample=sample
    )
    assert job.wait(60)
    assert job.state is State.DONE, job.error
    found: Measured = job.result
    return found


def choose(at: AppTest, name: str, value: Any) -> None:
    (control,) = (c for c in (*at.selectbox, *at.select_slider) if c.key == shown(at, name))
    checked(control.set_value(value).run())


def numbers(at: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in at.metric}


def test_the_answers_are_those_of_the_runs_page(model: OnBench, history: History) -> None:
    found = measure(model, Sample("piqa", 30))
    assert found.saved is not None
    assert found.answers is not None
    questions = Questions(model.fingerprint, found.saved, ("piqa",), 30, SEED, allow_leak=False)
    assert ENGINE.ask_tasks("test", questions).wait(60)
    run = history.find(model.fingerprint, found.saved)
    assert run is not None
    assert run.tasks["piqa"] == json.loads(json.dumps(found.answers))


def test_they_are_kept_with_the_run_unless_more_were_asked_before(
    model: OnBench, history: History
) -> None:
    few = measure(model, Sample("boolq", 20))
    assert few.saved is not None
    run = history.find(model.fingerprint, few.saved)
    assert run is not None
    assert run.tasks["boolq"]["items"] == 20
    history.ask(run, {"boolq": {**run.tasks["boolq"], "items": 35}})
    again = measure(model, Sample("boolq", 30))
    assert again.saved == few.saved
    kept = history.find(model.fingerprint, few.saved)
    assert kept is not None
    assert kept.tasks["boolq"]["items"] == 35
    assert again.answers is not None
    assert again.answers["items"] == 30


def test_a_task_that_cannot_be_asked_says_why_and_the_rest_stands(
    model: OnBench, history: History, data: Path
) -> None:
    (data / "tasks" / "piqa" / "valid.jsonl").write_text("{ broken\n")
    found = measure(model, Sample("piqa", 20))
    assert found.answers is None
    assert found.unasked is not None
    assert "valid.jsonl" in found.unasked
    assert found.speeds is not None
    assert found.saved is not None


def test_the_card_follows_what_is_chosen(at: AppTest, data: Path) -> None:
    assert "PIQA right" not in numbers(at)
    choose(at, "sample-task", "piqa")
    choose(at, "sample-items", 20)
    settle(at)
    found = at.session_state["tab"].measured
    right = found.answers["pruned"]["acc"]["value"]
    assert found.answers["items"] == 20
    assert numbers(at)["PIQA right"] == f"{100 * right:.1f} %"
    assert "of 20 of 40 items" in "\n".join(caption.value for caption in at.caption)
    choose(at, "sample-task", "none")
    assert "PIQA right" not in numbers(at)


def test_whoever_decides_sees_what_was_chosen(at: AppTest) -> None:
    choose(at, "sample-task", "piqa")
    choose(at, "sample-items", 20)
    settle(open_page(at, "present"))
    found = at.session_state["tab"].measured
    before, after = (found.answers[side]["acc"]["value"] for side in ("dense", "pruned"))
    assert numbers(at)["PIQA right"] == shares(before, after)
    assert "Next word right" not in numbers(at)


def test_a_broken_task_is_a_sentence_on_the_page(at: AppTest, data: Path) -> None:
    (data / "tasks" / "boolq" / "dev.jsonl").write_text("{ broken\n")
    choose(at, "sample-task", "boolq")
    settle(at)
    assert any("The task was not asked" in error.value for error in at.error)
    assert numbers(at)["BoolQ right"] == "—"
    assert numbers(at)["Perplexity"] != "—"


def test_answers_that_cannot_be_kept_are_on_screen_all_the_same(
    model: OnBench, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object) -> None:
        raise PrunescopeError("The disk is full.")

    monkeypatch.setattr(history, "ask", full)
    found = measure(model, Sample("piqa", 20))
    assert found.answers is not None
    assert found.saved is not None
    assert found.unsaved == "The disk is full."
