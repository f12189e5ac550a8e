"""What all tests share: one thread for tiny models, whose threads would mostly wait, and for those
of the command line a tiny model to run it on.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from pruning_core.__main__ import main
from tests.model import tiny_checkpoints as tiny


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a history of its own, before the app's engine reads where it is."""
    history = tempfile.mkdtemp(prefix="prunescope-history-")
    os.environ["PRUNESCOPE_HISTORY"] = history
    config.add_cleanup(lambda: shutil.rmtree(history, ignore_errors=True))


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("demo"):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def libraries_as_before() -> Iterator[None]:
    """The command line silences transformers for the whole process: undo that."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, saved."""
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=512)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], libraries_as_before: None
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process; returns the exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:  # argparse's own way out
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def json_of(run: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, Any]]:
    """Run a command that works with ``--json`` and return the one object it prints."""

    def json_of(*words: object) -> dict[str, Any]:
        code, out, err = run(*words, "--json")
        assert code == 0, err
        return json.loads(out)  # fails over anything besides one object

    return json_of


@pytest.fixture
def refused(run: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a command that must be refused and return the sentence that says why."""

    def refused(*words: object) -> str:
        code, out, err = run(*words)
        assert code == 2
        assert "Traceback" not in out + err
        said = [line for line in err.splitlines() if line.startswith("prunescope: ")]
        assert said == err.splitlines()[-1:], err
        assert said[0].endswith((".", "?"))
        return said[0].removeprefix("prunescope: ")

    return refused
