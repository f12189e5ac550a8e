"""Tasks asked of a saved run: the job on a tiny model, and the section of the Runs page."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from streamlit.testing.v1 import AppTest

from app.asking import Asked, Questions, supply
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks import fast
from pruning_core.history import History, SavedRun
from pruning_core.jobs import Job, State
from pruning_core.recipe import Calibration, Pattern, PatternKind, Recipe, Scoring
from tests import tiny
from tests.app import task_rows
from tests.app.conftest import CALIBRATION
from tests.app.tabs import checked, close, new_tab, open_page, settle
from tests.app.task_rows import ROWS
from tests.history.run_values import task, values
from tests.model import tiny_checkpoints


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small tasks that are whole, one whose file broke off, and a cache of our own."""
    task_rows.write(tmp_path)
    broken = tmp_path / "tasks" / "hellaswag" / "hellaswag_val.jsonl.gz"
    broken.parent.mkdir()
    broken.write_bytes(gzip.compress(b"{}\n" * 99)[:-9])
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def pruned(model: OnBench, estimator: str = "fine", **changes: Any) -> Recipe:
    calibration = changes.pop("calibration", CALIBRATION)
    base = Recipe(model.ref, model.fingerprint, Scoring(estimator, (), calibration), **changes)
    return base.with_sparsity({site.key: 0.5 for site in model.anatomy.sites})


@pytest.fixture
def run(model: OnBench, history: History) -> SavedRun:
    return history.save(values(pruned(model)), name="half")


@pytest.fixture
def at(model: OnBench) -> Iterator[AppTest]:
    at = new_tab()
    yield at
    close(at)


class Watched:
    """Counts the batches that are scored, and holds one of them back until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hold: int = 0) -> None:
        self.items: list[int] = []
        self._calls, self._hold, self._votes = 0, hold, fast.votes
        self._reached, self._open = threading.Event(), threading.Event()
        monkeypatch.setattr(fast, "votes", self)

    def __call__(self, model: Any, batch: Any) -> Any:
        self._calls += 1
        if self._calls == self._hold:
            self._reached.set()
            assert self._open.wait(60)
        self.items += [question.index for question in batch]
        return self._votes(model, batch)

    def reached(self) -> None:
        assert self._reached.wait(60)

    def let_through(self) -> None:
        self._open.set()


def questions(
    run: SavedRun,
    *tasks: str,
    limit: int | None = None,
    seed: int | None = None,
    allow_leak: bool = False,
) -> Questions:
    return Questions(run.fingerprint, run.id, tasks, limit, seed, allow_leak)


def ask(wanted: Questions, owner: str = "tab") -> Job[Asked]:
    return ENGINE.ask_tasks(owner, wanted)


def done(job: Job[Asked]) -> Asked:
    assert job.wait(60)
    assert job.result is not None, job.error
    return job.result


def failed(job: Job[Asked]) -> str:
    assert job.wait(60)
    assert job.state is State.FAILED
    assert job.error is not None
    return job.error


def kept(run: SavedRun) -> dict[str, Any]:
    found = ENGINE.history.find(run.fingerprint, run.id)
    assert found is not None
    return dict(found.tasks)


def dense_logits() -> torch.Tensor:
    bench = ENGINE._current.bench  # type: ignore[union-attr]
    with bench.applied(None):
        return bench.model(tiny.tokens() % 100).logits


# The job.


def test_what_was_answered_is_kept_with_the_run(run: SavedRun) -> None:
    before = dense_logits()
    asked = done(ask(questions(run, "boolq", "piqa", limit=12, seed=3)))
    assert (asked.kept, asked.failed, asked.left) == (("boolq", "piqa"), (), ())
    found = kept(run)
    assert list(found) == ["boolq", "piqa"]
    assert (found["piqa"]["items"], found["piqa"]["of"], found["piqa"]["sample"]) == (
        12,
        ROWS,
        3,
    )
    assert found["piqa"]["dense"].keys() == {"acc", "acc_norm"}
    delta = found["piqa"]["pruned"]["acc"]["value"] - found["piqa"]["dense"]["acc"]["value"]
    assert found["piqa"]["delta"]["acc"]["value"] == pytest.approx(delta)
    assert not found["boolq"]["leaked"]
    assert torch.equal(dense_logits(), before)


def test_the_answers_are_those_of_the_command_line(
    run: SavedRun, tiny_folder: Path, tmp_path: Path, libraries_as_before: None
) -> None:
    from pruning_core.__main__ import main

    done(ask(questions(run, "boolq", limit=12)))
    place, recipe = tmp_path / "report.json", tmp_path / "recipe.json"
    recipe.write_text(json.dumps(run.recipe.as_dict()))
    words = ("--recipe", recipe, "--tasks", "boolq", "--limit", 12, "--dtype", "float32")
    options = map(str, ("evaluate", tiny_folder, *words, "--resume", "--json", place))
    assert main([*options]) == 0
    ours, theirs = kept(run)["boolq"], json.loads(place.read_text())["tasks"]["boolq"]
    assert theirs["resumed_items"] == 12, "what the app has asked is not asked again"
    for side in ("dense", "pruned", "delta", "sha256", "source", "chance", "scorer"):
        assert ours[side] == theirs[side]


def test_a_task_that_fails_leaves_the_others_standing(run: SavedRun) -> None:
    asked = done(ask(questions(run, "hellaswag", "boolq", "openbookqa", limit=6)))
    assert asked.kept == ("boolq",)
    why = dict(asked.failed)
    assert "download broke off" in why["hellaswag"]
    assert "does not exist" in why["openbookqa"]
    assert list(kept(run)) == ["boolq"]


def test_what_was_stopped_goes_on_and_asks_nothing_twice(
    run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dense_logits()
    watched = Watched(monkeypatch, hold=2)
    wanted = questions(run, "piqa")
    job = ask(wanted)
    watched.reached()
    job.cancel()
    watched.let_through()
    assert job.wait(60)
    assert job.state is State.CANCELLED
    assert kept(run) == {}
    assert torch.equal(dense_logits(), before)
    assert 0 < len(watched.items) < ROWS
    done(ask(wanted))
    assert sorted(watched.items) == sorted([*range(ROWS), *range(ROWS)]), "once for either model"
    assert kept(run)["piqa"]["items"] == ROWS


def test_the_dense_model_is_asked_once_for_all_runs(
    model: OnBench, history: History, run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = history.save(values(pruned(model, "magnitude")))
    watched = Watched(monkeypatch)
    done(ask(questions(run, "boolq", limit=8)))
    assert len(watched.items) == 16
    done(ask(questions(other, "boolq", limit=8)))
    assert len(watched.items) == 24
    assert kept(other)["boolq"]["dense"] == kept(run)["boolq"]["dense"]


def test_the_same_request_is_not_queued_twice(
    run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, hold=1)
    first = ask(questions(run, "boolq", limit=8))
    watched.reached()
    second = ask(questions(run, "boolq", limit=8), owner="another tab")
    assert second.state is State.RUNNING, "it has joined the first"
    watched.let_through()
    assert done(first) == done(second)


def test_another_tabs_model_comes_between_tasks_and_ends_the_asking(
    run: SavedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_checkpoints.save(tmp_path / "other", num_hidden_layers=2)
    watched = Watched(monkeypatch, hold=1)
    job = ask(questions(run, "boolq", "piqa", limit=8))
    watched.reached()
    load = ENGINE.load(
        "another tab", str(other), device="cpu", dtype="float32", trust_remote_code=False
    )
    watched.let_through()
    assert "no longer on the bench" in failed(job)
    assert load.state is State.DONE, "it went before the second task"
    assert list(kept(run)) == ["boolq"]


def test_a_run_that_is_deleted_meanwhile_ends_the_asking(
    history: History, run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, hold=1)
    job = ask(questions(run, "boolq", "piqa", limit=8))
    watched.reached()
    history.delete(run)
    watched.let_through()
    assert "has been deleted" in failed(job)
    assert "has been deleted" in failed(ask(questions(run, "boolq", limit=8)))
    assert history.find(run.fingerprint, run.id) is None


def test_a_run_of_another_number_format_is_refused(model: OnBench, history: History) -> None:
    run = history.save(values(pruned(model), dtype="bfloat16"))
    why = failed(ask(questions(run, "boolq")))
    assert "was measured in bfloat16 on cpu, and the model is loaded in float32 on cpu" in why
    assert kept(run) == {}


def test_items_that_were_calibrated_on_are_refused_or_marked(
    model: OnBench, history: History, data: Path
) -> None:
    text = data / "wikitext2" / "wiki.test.raw"
    text.parent.mkdir()
    passage = "Number {0} has these words . Whoever reads {0} comes back to its words ."
    text.write_text("".join(f" {passage.format(number)} \n" for number in range(30)))
    calibration = Calibration(f"file:{text}", windows=3, length=32)
    run = history.save(values(pruned(model, calibration=calibration)))
    ((task, why),) = done(ask(questions(run, "last_word"))).failed
    assert task == "last_word"
    assert "overlap" in why
    assert done(ask(questions(run, "last_word", allow_leak=True))).kept == ("last_word",)
    assert kept(run)["last_word"]["leaked"] is True


def test_single_weights_and_a_map_that_is_gone_are_worked_out(
    model: OnBench, history: History
) -> None:
    wanted = (
        pruned(model, "wanda-sp"),
        pruned(model, "wanda", pattern=Pattern(PatternKind.UNSTRUCTURED)),
    )
    assert ENGINE.plan(wanted[0]) is None
    for recipe in wanted:
        run = history.save(values(recipe))
        assert done(ask(questions(run, "boolq", limit=6))).kept == ("boolq",)
        assert ENGINE.plan(recipe) is not None


def test_how_far_it_is_says_which_task(run: SavedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, hold=2)
    job = ask(questions(run, "boolq", "piqa", limit=40))
    watched.reached()
    assert job.progress.total == 40
    assert job.progress.note.startswith("boolq, ")
    assert job.progress.note.endswith(", task 1 of 2")
    assert isinstance(job.partial, Asked)
    assert job.partial.left == ("boolq", "piqa")
    watched.let_through()
    done(job)
    assert job.progress.note == "piqa, pruned, task 2 of 2"


# Where the rows are.


def test_tasks_without_their_files_are_missing(data: Path) -> None:
    rows = supply()
    assert (rows.folder, rows.there) == (data, ("boolq", "piqa", "hellaswag"))
    assert {"arc_easy", "last_word"} <= {*rows.missing}
    (data / "tasks" / "piqa" / "valid-labels.lst").unlink()
    (data / "wikitext2").mkdir()
    (data / "wikitext2" / "wiki.test.raw").write_text("words")
    assert supply().there == ("boolq", "hellaswag", "last_word")


def test_without_a_folder_all_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNESCOPE_DATA")
    rows = supply()
    assert (rows.folder, rows.missing) == (None, ())
    assert "lambada_openai" in rows.there


def test_every_file_that_a_reader_opens_is_looked_for(data: Path) -> None:
    from pruning_core.evaluation.tasks.definitions import TASKS
    from pruning_core.evaluation.tasks.documents import read_documents

    for name in supply().missing:
        with pytest.raises(PrunescopeError, match="does not exist"):
            read_documents(TASKS[name])


# The page.


def page(at: AppTest) -> AppTest:
    return open_page(at, "runs")


def said(at: AppTest) -> str:
    kinds = ("caption", "warning", "error", "info", "text", "markdown")
    return "\n".join(found.value for kind in kinds for found in at.main.get(kind))


def table(at: AppTest) -> Any:
    return next(found.value for found in at.dataframe if "beyond noise" in found.value.columns)


def bars(at: AppTest) -> list[dict[str, Any]]:
    figures = [json.loads(chart.proto.spec)["data"] for chart in at.get("plotly_chart")]
    found: list[dict[str, Any]] = next(
        traces for traces in figures if traces[-1]["name"] == "guessing"
    )
    return found


def choose(at: AppTest, *tasks: str) -> AppTest:
    return checked(at.multiselect(key="tasks-asked").set_value([*tasks]).run())


def press(at: AppTest) -> AppTest:
    return checked(at.button(key="ask-tasks").click().run())


def test_a_run_without_tasks_says_how_they_come(at: AppTest, run: SavedRun, data: Path) -> None:
    page(at)
    assert "half has not been asked any tasks yet" in said(at)
    assert f"The items come from `{data}`. Not there: WinoGrande" in said(at)
    assert at.multiselect(key="tasks-asked").options == ["BoolQ", "PIQA", "HellaSwag"]
    assert at.multiselect(key="tasks-asked").value == ["piqa"]
    assert at.number_input(key="tasks-limit").value == 100
    assert at.number_input(key="tasks-seed").value == 0


def test_asking_draws_both_models_beside_each_other(at: AppTest, run: SavedRun) -> None:
    choose(page(at), "piqa", "boolq", "hellaswag")
    checked(at.number_input(key="tasks-limit").set_value(12).run())
    settle(press(at))
    found = kept(run)
    assert list(found) == ["piqa", "boolq"]
    dense, pruned, guessing = bars(at)
    for side, bar in (("dense", dense), ("pruned", pruned)):
        assert bar["y"] == [task[side]["acc"]["value"] for task in found.values()]
    assert guessing["y"] == [0.5, 0.5, None, 0.5, 0.5, None]
    assert list(table(at)["items"]) == [f"12 of {ROWS}, seed 0"] * 3
    assert list(table(at)["metric"]) == ["acc", "acc_norm", "acc"]
    assert "HellaSwag could not be asked" in said(at)
    assert "download broke off" in said(at)
    assert "passages lack their titles" in said(at)


def test_the_metric_is_chosen(at: AppTest, history: History, run: SavedRun) -> None:
    both = task(0.4)
    for side in ("dense", "pruned", "delta"):
        both[side]["acc_norm"] = {"value": 0.25, "low": 0.2, "high": 0.3}
    history.ask(run, {"piqa": both, "boolq": task(0.6)})
    page(at)
    assert bars(at)[1]["y"] == [0.4, 0.6]
    checked(at.segmented_control(key="tasks-metric").set_value("acc_norm").run())
    assert bars(at)[1]["y"] == [0.25, 0.6]


@pytest.mark.parametrize(
    ("kind", "expected"), [("The first", "the first 8 of 40"), ("All", "all 40")]
)
def test_the_items_are_chosen(at: AppTest, run: SavedRun, kind: str, expected: str) -> None:
    choose(page(at), "boolq")
    checked(at.number_input(key="tasks-limit").set_value(8).run())
    checked(at.segmented_control(key="tasks-items").set_value(kind).run())
    settle(press(at))
    assert list(table(at)["items"]) == [expected]


def test_while_tasks_are_asked_nothing_more_can_be_and_stopping_is_told(
    at: AppTest, run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, hold=2)
    press(choose(page(at), "piqa"))
    watched.reached()
    checked(at.run())
    assert at.button(key="ask-tasks").disabled
    assert "as soon as both models have given them" in said(at)
    assert "the sidebar shows how far it is" in said(at)
    job = at.session_state["tab"].jobs["tasks"]
    assert any(f"**{job.title}**" == line.value for line in at.sidebar.markdown)
    checked(at.button(key=f"stop-{job.id}").click().run())
    watched.let_through()
    settle(at)
    assert "The asking was stopped" in said(at)
    settle(press(at))
    assert kept(run)["piqa"]["resumed_items"] > 0
    assert "The asking was stopped" not in said(at)


def test_what_ends_the_asking_is_said_beside_the_form(
    at: AppTest, history: History, run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(page(at), "boolq")
    real = history.ask

    def full(*_: object) -> None:
        raise PrunescopeError("The disk is full.")

    monkeypatch.setattr(history, "ask", full)
    settle(press(at))
    assert "**Not all was asked.** The disk is full." in said(at)
    monkeypatch.setattr(history, "ask", real)
    settle(press(at))
    assert "Not all was asked" not in said(at)


def test_a_run_measured_otherwise_cannot_be_asked(
    at: AppTest, model: OnBench, history: History
) -> None:
    history.save(values(pruned(model), dtype="bfloat16"), name="coarse")
    page(at)
    assert "coarse was measured in bfloat16" in said(at)
    assert not at.multiselect


def test_answers_that_flatter_are_marked(at: AppTest, history: History, run: SavedRun) -> None:
    history.ask(run, {"piqa": task() | {"leaked": True}})
    page(at)
    assert list(table(at)[""]) == ["⚠"]
    assert "these numbers flatter" in said(at)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("nowhere", "which is not a folder"), ("empty", "Not there: BoolQ, PIQA")],
)
def test_without_rows_the_form_says_why(
    at: AppTest,
    run: SavedRun,
    tmp_path: Path,
    folder: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path / folder))
    page(at)
    assert expected in said(at)
    assert not at.multiselect


def test_the_hub_is_named_where_no_folder_is(
    at: AppTest, run: SavedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRUNESCOPE_DATA")
    page(at)
    assert "The items come from the hub" in said(at)
