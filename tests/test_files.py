"""Files that are whole or not there, and places that are tried before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.files import demand_writable, written_whole


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with written_whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_what_fails_inside_leaves_the_old_file(tmp_path: Path, raised: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with written_whole(path) as partial:
            partial.write_text("half")
            raise raised

    with pytest.raises(raised):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_good_place_is_as_it_was_after_the_trial(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    demand_writable(tmp_path / "file")
    demand_writable(tmp_path / "a" / "b" / "new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("place", [".", "file/below", "a/b/" + "x" * 300, "pipe"])
def test_a_place_that_can_not_be_is_refused_and_nothing_left(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PrunescopeError, match="could not be written"):
        demand_writable(tmp_path / place)
    with (
        pytest.raises(PrunescopeError, match="could not be written"),
        written_whole(tmp_path / place) as partial,
    ):
        partial.write_text("new")
    assert {*os.listdir(tmp_path)} <= {"file", "pipe", "a"}
    demand_writable(tmp_path / "b" / "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PrunescopeError, match="Permission denied"):
        demand_writable(tmp_path / "file")
