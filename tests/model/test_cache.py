"""A cached folder is whole or rebuilt; what is half-written is never taken for whole."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.model import cache
from pruning_core.progress import Cancelled


class Builder:
    """Fills a folder, and counts how often."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.builds = 0

    def __call__(self, fresh: Path) -> None:
        self.builds += 1
        (fresh / "part").mkdir()
        (fresh / "part" / "a.bin").write_text(self.text)
        (fresh / "b.json").write_text("{}")


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_built_once(tmp_path: Path) -> None:
    build = Builder()
    target = tmp_path / "root" / "thing"
    for _ in range(2):
        assert cache.obtain(target, build) == target
    assert build.builds == 1
    assert (target / "part" / "a.bin").read_text() == "weights"
    assert entries(target.parent) == {"thing"}


def cut_short(target: Path) -> None:
    (target / "part" / "a.bin").write_text("weigh")


def flip(target: Path) -> None:
    (target / "part" / "a.bin").write_text("wEights")


def lose_a_file(target: Path) -> None:
    (target / "b.json").unlink()


def lose_the_manifest(target: Path) -> None:
    (target / cache.MANIFEST).unlink()


def garble_the_manifest(target: Path) -> None:
    (target / cache.MANIFEST).write_text('{"files": ')


def put_nonsense_in_the_manifest(target: Path) -> None:
    (target / cache.MANIFEST).write_text('{"files": ["a.bin"]}')


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_short, "another size"),
        (flip, "other contents"),
        (lose_a_file, "b.json is missing"),
        (lose_the_manifest, "manifest.json is missing"),
        (garble_the_manifest, "manifest can't be read"),
        (put_nonsense_in_the_manifest, "manifest can't be read"),
    ],
)
def test_damage_is_found_and_repaired(tmp_path: Path, harm: object, said: str) -> None:
    build = Builder()
    target = cache.obtain(tmp_path / "thing", build)
    assert cache.damage(target) is None
    assert callable(harm)
    harm(target)
    found = cache.damage(target)
    assert found is not None
    assert said in found
    cache.obtain(target, build)
    assert build.builds == 2
    assert cache.damage(target) is None
    assert entries(tmp_path) == {"thing"}


@pytest.mark.parametrize("stop", [Cancelled(), KeyboardInterrupt(), ValueError("a defect")])
def test_a_build_that_stops_leaves_nothing(tmp_path: Path, stop: BaseException) -> None:
    def build(fresh: Path) -> None:
        (fresh / "a.bin").write_text("half")
        raise stop

    with pytest.raises(type(stop)):
        cache.obtain(tmp_path / "thing", build)
    assert entries(tmp_path) == set()


def test_a_failed_repair_keeps_the_damaged_folder_damaged(tmp_path: Path) -> None:
    target = cache.obtain(tmp_path / "thing", Builder())
    cut_short(target)

    def build(fresh: Path) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        cache.obtain(target, build)
    assert cache.damage(target) is not None


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full. Free some space"),
        (errno.EROFS, "can't be written: Read-only file system"),
    ],
)
def test_a_disk_that_takes_no_more_is_told(tmp_path: Path, number: int, said: str) -> None:
    def build(fresh: Path) -> None:
        (fresh / "a.bin").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(PrunescopeError, match=said) as told:
        cache.obtain(tmp_path / "thing", build)
    assert "PRUNESCOPE_CACHE" in str(told.value)
    assert entries(tmp_path) == set()


def test_a_cache_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(PrunescopeError, match="can't be written"):
        cache.obtain(tmp_path / "root" / "thing", Builder())


def test_of_two_builders_at_once_the_first_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "thing"

    def slow(fresh: Path) -> None:
        Builder("slow")(fresh)
        cache.obtain(target, Builder("fast"))

    cache.obtain(target, slow)
    assert (target / "part" / "a.bin").read_text() == "fast"
    assert cache.damage(target) is None
    assert entries(tmp_path) == {"thing"}


def test_of_two_repairs_at_once_one_stays(tmp_path: Path) -> None:
    target = cache.obtain(tmp_path / "thing", Builder("old"))
    cut_short(target)

    def slow(fresh: Path) -> None:
        Builder("slow")(fresh)
        cache.obtain(target, Builder("fast"))

    cache.obtain(target, slow)
    assert (target / "part" / "a.bin").read_text() == "fast"
    assert entries(tmp_path) == {"thing"}


def test_what_killed_builds_left_goes_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / "thing.partial-old", tmp_path / "thing.partial-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "a.bin").write_text("half")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    cache.obtain(tmp_path / "thing", Builder())
    assert entries(tmp_path) == {"thing", "thing.partial-young"}


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path / "mine"))
    assert cache.cache_root() == tmp_path / "mine"
    monkeypatch.delenv("PRUNESCOPE_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root() == tmp_path / "xdg" / "prunescope"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / ".cache" / "prunescope"
