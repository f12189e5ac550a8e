"""The app's engine with a tiny model on its bench, shared by the tests of the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine import ENGINE
from app.results import OnBench
from pruning_core.history import History
from pruning_core.recipe import Calibration, Scoring
from tests.model import tiny_checkpoints

CALIBRATION = Calibration(windows=3, length=32)
OWNER = "test"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.save(
        tmp_path_factory.mktemp("model") / "tiny", num_hidden_layers=4, num_attention_heads=8
    )


@pytest.fixture
def model(tiny_folder: Path) -> Iterator[OnBench]:
    """Put the tiny model on the bench, with maps of every cheap estimator."""
    present = ENGINE.model
    if present is None or present.ref != str(tiny_folder):
        job = ENGINE.load(
            OWNER, str(tiny_folder), device="cpu", dtype="float32", trust_remote_code=False
        )
        assert job.wait(120)
        assert job.result is not None, job.error
        present = job.result
    scorings = tuple(
        Scoring(name, (), CALIBRATION) for name in ("fine", "coarse", "magnitude", "random")
    )
    job = ENGINE.score(OWNER, present.fingerprint, scorings)
    assert job.wait(120)
    assert job.error is None
    yield present
    ENGINE.jobs.cancel_owner(OWNER)


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """Let the engine keep runs in a folder of this test's own, which is empty."""
    history = History(tmp_path / "runs")
    monkeypatch.setattr(ENGINE, "history", history)
    return history
