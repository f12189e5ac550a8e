"""The folder of a recovery: whole checkpoints only, nothing overwritten, refused in sentences."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.recovery.adapters import CONFIG, WEIGHTS
from pruning_core.recovery.folder import FORMAT, RECORD, RecoveryFolder


def files(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).write_text(name) for name in names] and None


def broken(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise OSError(28, "No space left on device")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_place_that_is_not_there_is_not_made_by_asking(tmp_path: Path) -> None:
    RecoveryFolder(tmp_path / "a" / "b").demand(resume=False)
    assert not names(tmp_path)


def test_the_newest_checkpoint_is_the_only_one(tmp_path: Path) -> None:
    place = RecoveryFolder(tmp_path / "new")
    assert place.checkpoint() is None
    place.keep(5, {"curve": [1]}, files("adapters"))
    place.keep(10, {"curve": [1, 2]}, files("adapters"))
    found = place.checkpoint()
    assert found is not None
    assert found.state == {"curve": [1, 2]}
    assert (found.folder / "adapters").read_text() == "adapters"
    assert names(place.path) == {"checkpoint-00000010"}


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    place = RecoveryFolder(tmp_path)
    place.keep(5, {"at": 5}, files("adapters"))
    with pytest.raises(PrunescopeError, match="No space left on device"):
        place.keep(10, {"at": 10}, broken)
    assert names(tmp_path) == {"checkpoint-00000005"}
    assert place.checkpoint().state == {"at": 5}  # type: ignore[union-attr]


def test_a_kill_between_the_two_renames_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RecoveryFolder(tmp_path)
    place.keep(5, {"at": 5}, files("adapters"))
    (tmp_path / ".checkpoint-00000010.abcd.partial").mkdir()  # half written by a killed process
    assert place.checkpoint().state == {"at": 5}  # type: ignore[union-attr]
    monkeypatch.setattr("shutil.rmtree", lambda *_args, **_kwargs: None)
    place.keep(10, {"at": 10}, files("adapters"))
    assert {"checkpoint-00000005", "checkpoint-00000010"} <= names(tmp_path)
    assert place.checkpoint().state == {"at": 10}  # type: ignore[union-attr]
    monkeypatch.undo()
    place.keep(15, {"at": 15}, files("adapters"))
    assert names(tmp_path) == {"checkpoint-00000015"}


def test_the_record_comes_last_and_the_checkpoints_go(tmp_path: Path) -> None:
    place = RecoveryFolder(tmp_path)
    place.keep(5, {}, files("adapters"))

    def record() -> dict[str, str]:
        assert names(tmp_path) == {"checkpoint-00000005", WEIGHTS, CONFIG}
        assert not place.finished
        return {"format": FORMAT}

    place.finish(files(WEIGHTS, CONFIG), record)
    assert names(tmp_path) == {RECORD, WEIGHTS, CONFIG}
    assert place.record() == {"format": FORMAT}


def test_a_result_that_cannot_be_written_leaves_the_checkpoint(tmp_path: Path) -> None:
    place = RecoveryFolder(tmp_path)
    place.keep(5, {}, files("adapters"))
    with pytest.raises(PrunescopeError, match="No space left on device"):
        place.finish(broken, dict)
    assert names(tmp_path) == {"checkpoint-00000005"}
    with pytest.raises(
        PrunescopeError, match="holds no finished recovery. Finish it with --resume"
    ):
        place.record()


def test_what_is_in_use_is_refused(tmp_path: Path) -> None:
    place = RecoveryFolder(tmp_path / "used")
    place.keep(5, {}, files("adapters"))
    with pytest.raises(PrunescopeError, match="holds a recovery already. Say --resume"):
        place.demand(resume=False)
    place.demand(resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_not_ours_is_refused(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(PrunescopeError, match="holds other things than a recovery"):
        RecoveryFolder(tmp_path).demand(resume=resume)
    with pytest.raises(PrunescopeError, match="is there already and no folder"):
        RecoveryFolder(tmp_path / "thesis.tex").demand(resume=resume)


@pytest.mark.skipif(os.name != "posix", reason="a place that cannot be written")
def test_a_place_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(PrunescopeError, match="could not be written"):
        RecoveryFolder(Path("/proc/nothing/here")).demand(resume=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold a JSON object"),
        (json.dumps({"format": "prunescope-recovery/99"}), "this version reads"),
    ],
)
def test_a_record_of_something_else_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(PrunescopeError, match=said):
        RecoveryFolder(tmp_path).record()


def test_a_folder_without_one_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(PrunescopeError, match="holds no finished recovery. Name the folder of one"):
        RecoveryFolder(tmp_path).record()
