"""A run that is killed goes on where it was: nothing is scored twice, nothing counted twice."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks import fast
from pruning_core.evaluation.tasks.accuracy import Answers, Scorer, Selection, ask, select
from pruning_core.evaluation.tasks.definitions import TASKS, Vote
from pruning_core.evaluation.tasks.journal import Journal
from tests.model import tiny_checkpoints

ROOT = Path(__file__).parents[3]

TOKENIZER = tiny_checkpoints.tokenizer()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixty small questions, and a cache of our own."""
    path = tmp_path / "tasks" / "piqa" / "valid.jsonl"
    path.parent.mkdir(parents=True)
    rows = [
        {"goal": f"go {'far ' * (i % 9)}{i}", "sol1": f"left {i}", "sol2": "right or so"}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.with_name("valid-labels.lst").write_text("\n".join(str(i % 2) for i in range(60)))
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def chosen() -> Selection:
    return select(TASKS["piqa"])


def asked(resume: bool = False, **options: Any) -> Answers:
    model = tiny_checkpoints.model(max_position_embeddings=512)
    return ask(model, TOKENIZER, chosen(), {"model": 1}, resume=resume, **options)


class Counted:
    """Counts the batches that are scored, and fails at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int = 10**9) -> None:
        self.items: list[int] = []
        self._calls, self._fail_at, self._votes = 0, fail_at, fast.votes
        monkeypatch.setattr(fast, "votes", self)

    def __call__(self, model: Any, batch: Any) -> Any:
        self._calls += 1
        if self._calls == self._fail_at:
            raise KeyboardInterrupt
        self.items += [question.index for question in batch]
        return self._votes(model, batch)


def test_a_broken_off_run_goes_on_and_equals_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked()
    first = Counted(monkeypatch, fail_at=4)
    with pytest.raises(KeyboardInterrupt):
        asked()
    second = Counted(monkeypatch)
    monkeypatch.setattr(second, "_votes", first._votes)
    resumed = asked(resume=True)
    assert resumed.resumed == len(first.items) > 0
    assert sorted(first.items + second.items) == list(range(60)), "each item once"
    assert (resumed.votes, resumed.right) == (whole.votes, whole.right)


def test_a_finished_run_is_resumed_without_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked()
    counted = Counted(monkeypatch)
    again = asked(resume=True)
    assert counted.items == []
    assert (again.votes, again.resumed) == (whole.votes, 60)


def test_without_resume_all_is_done_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked()
    counted = Counted(monkeypatch)
    assert asked().resumed == 0
    assert len(counted.items) == 60


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pruning_core.evaluation.tasks import fast
from tests.evaluation.tasks import test_resuming as test
votes, calls = fast.votes, []
def dying(model, batch):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return votes(model, batch)
fast.votes = dying
test.asked()
"""


def test_a_killed_process_loses_no_batch_that_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    code = KILLED.format(root=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        # As many threads as here: equal to the last bit needs sums in the same order.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    counted = Counted(monkeypatch)
    resumed = asked(resume=True)
    assert 0 < resumed.resumed < 60
    assert len(counted.items) == 60 - resumed.resumed
    assert resumed.votes == asked().votes


def journal_of(data: Path) -> Path:
    (path,) = (data / "cache" / "evaluations").glob("*.jsonl")
    return path


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_line_that_was_cut_short_is_scored_again(
    data: Path, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asked()
    path = journal_of(data)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    counted = Counted(monkeypatch)
    resumed = asked(resume=True)
    assert len(counted.items) + resumed.resumed == 60
    assert resumed.votes == whole.votes
    assert path.read_bytes() == content


def test_a_damaged_line_is_not_believed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked()
    path = journal_of(data)
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"-", b"+", 1)
    path.write_bytes(b"\n".join(lines))
    counted = Counted(monkeypatch)
    assert asked(resume=True).votes == whole.votes
    assert counted.items


def test_another_model_or_other_items_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked()
    counted = Counted(monkeypatch)
    model = tiny_checkpoints.model(max_position_embeddings=512)
    other = ask(model, TOKENIZER, chosen(), {"model": 2}, resume=True)
    assert other.resumed == 0
    few = ask(model, TOKENIZER, select(TASKS["piqa"], 5), {"model": 1}, resume=True)
    assert few.resumed == 0
    assert len(counted.items) == 65


def test_two_processes_do_not_measure_the_same_thing_at_once(tmp_path: Path) -> None:
    first = Journal({"a": 1}, resume=True, folder=tmp_path)
    second = Journal({"a": 1}, resume=True, folder=tmp_path)
    with first:
        first.add({3: (Vote(-1.5, True),)})
        with pytest.raises(PrunescopeError, match="Another process"), second:
            pass
    with second:
        assert second.done == {3: (Vote(-1.5, True),)}


def test_a_model_of_nan_is_told_and_what_was_scored_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_checkpoints.model(max_position_embeddings=512)
    votes, calls = fast.votes, []

    def poisoned(model: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            with torch.no_grad():
                model.model.norm.weight.fill_(math.nan)
        return votes(model, batch)

    monkeypatch.setattr(fast, "votes", poisoned)
    with pytest.raises(PrunescopeError, match="PIQA with NaN"):
        ask(model, TOKENIZER, chosen(), {"model": 1})
    monkeypatch.setattr(fast, "votes", votes)
    resumed = asked(resume=True)
    assert 0 < resumed.resumed < 60
    assert all(math.isfinite(vote.likelihood) for said in resumed.votes for vote in said)


def test_lm_eval_is_resumed_too() -> None:
    whole = asked(scorer=Scorer.LM_EVAL)
    again = asked(scorer=Scorer.LM_EVAL, resume=True)
    assert (again.votes, again.right, again.resumed) == (whole.votes, whole.right, 60)


def test_a_sample_is_seeded_and_in_order() -> None:
    first = select(TASKS["piqa"], 10, seed=3)
    assert list(first.items) == list(select(TASKS["piqa"], 10, seed=3).items)
    assert list(first.items) != list(select(TASKS["piqa"], 10, seed=4).items)
    assert list(first.items) == sorted(first.items)
    assert list(select(TASKS["piqa"], 10).items) == list(range(10))
    assert len(select(TASKS["piqa"], 99).items) == 60
    with pytest.raises(PrunescopeError, match="limit of items is 0"):
        select(TASKS["piqa"], 0)


def test_progress_counts_items() -> None:
    heard: list[tuple[int, int]] = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        assert (stage, note) == ("asking", "piqa")
        heard.append((done, total))

    asked(tick=listen, note="piqa")
    assert heard[0] == (0, 60)
    assert heard[-1] == (60, 60)
    assert heard == sorted(heard)
