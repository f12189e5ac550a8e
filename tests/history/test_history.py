"""The folder of saved runs: shared, killed, filled, damaged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.history import History, SavedRun, history_root
from pruning_core.history import store as store_module
from pruning_core.history.saved import LONGEST_LINEAGE
from tests.history import run_values
from tests.history.run_values import FINGERPRINT, recipe, values

ROOT = Path(__file__).parents[2]


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "runs")


def folder(history: History) -> Path:
    return history.folder / FINGERPRINT


def files(history: History) -> set[str]:
    """Return the names of all files of the model but the lock's."""
    return {name for name in os.listdir(folder(history)) if name != ".lock"}


def again(history: History) -> History:
    """Return the history as another process sees it: with nothing read before."""
    return History(history.folder)


def chain(history: History, length: int) -> list[SavedRun]:
    runs: list[SavedRun] = []
    for index in range(length):
        parent = runs[-1] if runs else None
        runs.append(history.save(values(recipe((index + 1) / 1000)), parent))
    return runs


def test_a_run_comes_back_as_it_was_saved(history: History) -> None:
    root = history.save(values(), name="the first")
    child = history.save(values(recipe(0.3), perplexity=None), root, predicted=3.5)
    assert again(history).runs(FINGERPRINT) == (root, child)
    first, second = again(history).runs(FINGERPRINT)
    assert (first.name, first.lineage, first.predicted_loss) == ("the first", (), None)
    assert (second.lineage, second.predicted_loss) == ((root.id,), 3.5)
    assert first.values == root.values
    assert {name: first.values[name] for name in values()} == values()
    assert again(history).find(FINGERPRINT, child.id) == child
    assert history.fingerprints() == (FINGERPRINT,)
    assert files(history) == {f"{root.id}.json", f"{child.id}.json"}


def test_a_run_is_nobody_elses_to_change(history: History) -> None:
    given = values()
    run = history.save(given)
    given["pruned"]["cost"]["parameters"] = 7
    assert run.values["pruned"]["cost"]["parameters"] == 80


def test_where_nothing_was_saved_there_is_nothing(history: History) -> None:
    assert history.runs(FINGERPRINT) == history.unreadable(FINGERPRINT) == ()
    assert history.fingerprints() == ()
    assert history.find(FINGERPRINT, "0006123456789-0badcafe") is None
    assert not history.folder.exists()


def test_runs_are_in_the_order_in_which_they_were_saved(history: History) -> None:
    runs = chain(history, 30)
    assert [run.id for run in again(history).runs(FINGERPRINT)] == [run.id for run in runs]
    assert len({run.id for run in runs}) == 30


SAME = [
    {"perplexity": 26.0},
    {"sparsity": 0.21},
]
OTHER = [
    *({"of": recipe(0.3)}, {"of": recipe(estimator="coarse")}, {"protocol": "embedded"}),
    *({"limit": None}, {"sha256": "b" * 64}, {"device": "cuda:0"}, {"dtype": "bfloat16"}),
]


@pytest.mark.parametrize("changes", SAME, ids=str)
def test_what_was_measured_before_is_not_saved_twice(
    history: History, changes: dict[str, object]
) -> None:
    first = history.save(values())
    assert again(history).save(values(**changes), name="again") == first
    assert len(files(history)) == 1


@pytest.mark.parametrize("changes", OTHER, ids=range(len(OTHER)))
def test_what_was_measured_otherwise_is_another_run(
    history: History, changes: dict[str, object]
) -> None:
    history.save(values())
    history.save(values(**changes))
    assert len(history.runs(FINGERPRINT)) == 2


def test_a_long_line_names_its_nearest_ancestors_only(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LONGEST_LINEAGE", 5)
    runs = chain(history, 8)
    assert runs[-1].lineage == tuple(run.id for run in runs[2:7])
    assert LONGEST_LINEAGE > 100


def test_a_new_name_lasts(history: History) -> None:
    run = history.save(values(), name="old")
    assert history.rename(run, "  new\nname ").name == "new name"
    (found,) = again(history).runs(FINGERPRINT)
    assert found.name == "new name"
    assert found.values["pruned"] == run.values["pruned"]
    with pytest.raises(PrunescopeError, match="at most 80"):
        history.rename(run, "x" * 81)
    assert history.rename(found, "").name == ""


def test_what_is_asked_later_is_kept_with_what_was(history: History) -> None:
    run = history.save(values())
    history.ask(run, {"piqa": run_values.task(0.4)})
    found = history.ask(run, {"boolq": run_values.task(0.6), "piqa": run_values.task(0.5)})
    assert again(history).runs(FINGERPRINT)[0].tasks == found.tasks
    assert {name: task["pruned"]["acc"]["value"] for name, task in found.tasks.items()} == {
        "piqa": 0.5,
        "boolq": 0.6,
    }
    with pytest.raises(PrunescopeError, match="no run has that"):
        history.ask(run, {"arc_easy": {"title": 1}})
    assert [*history.runs(FINGERPRINT)[0].tasks] == ["piqa", "boolq"]
    history.delete(run)
    with pytest.raises(PrunescopeError, match="was not added to: it has been deleted"):
        history.ask(run, {"piqa": run_values.task()})


def test_what_another_process_renamed_is_seen(history: History) -> None:
    run = history.save(values(), name="old")
    assert history.runs(FINGERPRINT)[0].name == "old"
    again(history).rename(run, "new")
    assert history.runs(FINGERPRINT)[0].name == "new"


def test_a_deleted_run_is_gone_and_others_are_not_touched(history: History) -> None:
    first, second, third = chain(history, 3)
    before = {name: (folder(history) / name).read_bytes() for name in files(history)}
    history.delete(second)
    assert again(history).runs(FINGERPRINT) == (first, third)
    assert all((folder(history) / name).read_bytes() == before[name] for name in files(history))
    history.delete(second)
    assert again(history).find(FINGERPRINT, second.id) is None


def test_renaming_what_was_deleted_does_not_bring_it_back(history: History) -> None:
    run = history.save(values(), name="old")
    again(history).delete(run)
    with pytest.raises(PrunescopeError, match=r"old was not renamed: it has been deleted"):
        history.rename(run, "new")
    assert files(history) == set()


def test_a_rename_never_outlives_a_delete(history: History) -> None:
    for round in range(15):
        run = history.save(values(recipe((round + 1) / 100)))
        barrier = threading.Barrier(3)

        def rename(run: SavedRun = run, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with contextlib.suppress(PrunescopeError):  # gone by then
                for turn in range(3):
                    again(history).rename(run, f"name {turn}")

        def delete(run: SavedRun = run, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            again(history).delete(run)

        with ThreadPoolExecutor(3) as pool:
            done = [pool.submit(rename), pool.submit(rename), pool.submit(delete)]
        for future in done:
            future.result()
        assert files(history) == set()


SAVING = """
import sys, time
from pathlib import Path
from pruning_core.history import History
from tests.history.run_values import recipe, values

history = History(Path(sys.argv[1]))
first, count, slow = (int(word) for word in sys.argv[2:])


def write_slowly(path, text, **options):
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(text), 100):
            file.write(text[start : start + 100].encode())
            time.sleep(0.0001)


if slow:
    Path.write_text = write_slowly
print("ready", flush=True)
parent = None
for index in range(first, first + count):
    parent = history.save(values(recipe((index + 1) / 1_000_000)), parent)
    print(parent.id, flush=True)
"""


def saving(
    history: History, first: int, count: int, *, slow: bool = False
) -> subprocess.Popen[str]:
    """Start a process that saves runs and tells the id of each; a slow one mostly writes."""
    words = [str(history.folder), *(str(int(number)) for number in (first, count, slow))]
    command = [sys.executable, "-c", SAVING, *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_kill_at_any_moment_loses_no_run_and_leaves_none_half(history: History) -> None:
    draw = random.Random(0)
    told: set[str] = set()
    for attempt in range(12):
        process = saving(history, 1000 * attempt, 1000, slow=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.005, 0.12))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split("\n")
        process.wait()
        told |= {*lines[:-1]}  # what comes after the last line break may be half a line
        process.stdout.close()
    assert len(told) > 12
    for path in folder(history).glob("*.json"):
        assert json.loads(path.read_text())["history"]["id"] == path.stem
    assert told <= {run.id for run in again(history).runs(FINGERPRINT)}
    assert history.unreadable(FINGERPRINT) == ()
    history.save(values(recipe(0.9)))  # nobody's death keeps the lock


def test_what_a_kill_left_half_written_is_swept_up_after_a_day(history: History) -> None:
    run = history.save(values())
    old, young = (folder(history) / f".{name}.json.0123.partial" for name in ("old", "young"))
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (1, 1))
    history.rename(run, "new")
    assert files(history) == {f"{run.id}.json", young.name}
    assert history.unreadable(FINGERPRINT) == ()


def test_several_processes_save_at_once(history: History) -> None:
    """Two with the same recipes and one with others: each recipe is there once."""
    processes = [saving(history, first, 25) for first in (0, 0, 500)]
    told = [set(process.communicate()[0].split()[1:]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    runs = again(history).runs(FINGERPRINT)
    assert len(runs) == 50
    assert {run.id for run in runs} == set().union(*told)
    assert told[0] == told[1]


def half_a_text(path: Path, text: str, **_options: object) -> None:
    path.write_bytes(text.encode()[: len(text) // 2])
    full()


def full(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = {
    "when it is written": (Path, "write_text", half_a_text),
    "when it is put on the disk": (os, "fsync", full),
    "when it is put in place": (os, "replace", full),
    "when the folder is made": (Path, "mkdir", full),
    "when the lock is made": (store_module.FileLock, "acquire", full),
}


@pytest.mark.parametrize("when", FULL)
def test_a_full_disk_is_a_sentence_and_keeps_all_there_was(
    history: History, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    run = history.save(values(), name="old")
    monkeypatch.setattr(*FULL[when])
    for work in (
        lambda: history.save(values(recipe(0.5)), run),
        lambda: history.rename(run, "new"),
    ):
        with pytest.raises(PrunescopeError, match=r"No space left on device\. Free some space"):
            work()
    monkeypatch.undo()
    assert again(history).runs(FINGERPRINT) == (run,)
    assert files(history) == {f"{run.id}.json"}
    assert len([history.save(values(recipe(0.5))), history.rename(run, "new")]) == 2


FILLING = """
import resource, sys
from pathlib import Path
from pruning_core.errors import PrunescopeError
from pruning_core.history import History
from tests.history.run_values import recipe, values

history = History(Path(sys.argv[1]))
run = history.save(values(), name="old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for work in (lambda: history.save(values(recipe(0.5))), lambda: history.rename(run, "new")):
    try:
        work()
    except PrunescopeError as error:
        print(error)
"""


def test_a_write_that_the_system_cuts_short_is_a_sentence_and_loses_nothing(
    history: History,
) -> None:
    """Without a small disk to fill: the system itself refuses what goes beyond 1000 bytes."""
    command = [sys.executable, "-c", FILLING, str(history.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("could not be written: File too large.") == 2
    assert [run.name for run in history.runs(FINGERPRINT)] == ["old"]
    assert len(files(history)) == 1


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "not text": lambda whole: b"\xff\xfe" + whole,
    "zeros": lambda whole: bytes(len(whole)),
    "foreign": lambda _whole: b'{"a": [1, 2]}',
    "a recipe": lambda _whole: recipe().to_json().encode(),
    "without history": lambda _whole: json.dumps(values()).encode(),
    "a later format": lambda whole: whole.replace(b"prunescope-run/1", b"prunescope-run/2"),
    "deep": lambda _whole: b"[" * 100_000,
    "huge": lambda _whole: b"[" + b"1," * 3_000_000 + b"1]",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_told_and_the_others_are_read(history: History, damage: str) -> None:
    first, second, third = chain(history, 3)
    path = folder(history) / f"{second.id}.json"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    for view in (history, again(history)):
        assert view.runs(FINGERPRINT) == (first, third)
        (file,) = view.unreadable(FINGERPRINT)
        assert file.path == path
        assert file.why.endswith(".")
        assert view.find(FINGERPRINT, second.id) is None
    with pytest.raises(PrunescopeError, match="deleted or damaged"):
        history.rename(second, "new")
    assert path.exists()


def test_every_cut_of_a_file_is_told(history: History) -> None:
    run = history.save(values())
    path = folder(history) / f"{run.id}.json"
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert again(history).runs(FINGERPRINT) == ()
        assert len(again(history).unreadable(FINGERPRINT)) == 1


def test_a_copy_is_not_taken_for_a_second_run(history: History) -> None:
    run = history.save(values())
    copy = folder(history) / f"{run.id} (1).json"
    copy.write_bytes((folder(history) / f"{run.id}.json").read_bytes())
    (folder(history) / "notes.txt").write_text("mine")
    (folder(history) / "deep.json").mkdir()
    assert again(history).runs(FINGERPRINT) == (run,)
    assert {file.path.name for file in history.unreadable(FINGERPRINT)} == {copy.name, "deep.json"}


@pytest.mark.parametrize("fingerprint", ["../else", "a/b", "", ".", "a b", "x" * 200])
def test_a_fingerprint_that_could_lead_elsewhere_is_refused(
    history: History, fingerprint: str
) -> None:
    with pytest.raises(PrunescopeError, match="not the fingerprint"):
        history.runs(fingerprint)
    run = values()
    run["fingerprint"] = run["recipe"]["fingerprint"] = fingerprint
    with pytest.raises(PrunescopeError, match="This run cannot be saved"):
        history.save(run)
    assert not history.folder.exists()


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), object(), "\ud800", "x" * 5_000_000], ids=range(5)
)
def test_what_could_not_be_read_again_is_not_saved(history: History, bad: object) -> None:
    with pytest.raises(PrunescopeError, match="This run cannot be saved"):
        history.save({**values(), "note": bad})
    with pytest.raises(PrunescopeError, match="This run cannot be saved"):
        history.save({**values(), "pruned": None})
    assert not history.folder.exists()


def test_a_place_that_can_not_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    history = History(tmp_path / "file")
    with pytest.raises(PrunescopeError, match="could not be written"):
        history.save(values())
    with pytest.raises(PrunescopeError, match="cannot be read"):
        history.fingerprints()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_is_read(history: History) -> None:
    run = history.save(values())
    folder(history).chmod(0o500)
    try:
        assert again(history).runs(FINGERPRINT) == (run,)
        for work in (
            lambda: history.save(values(recipe(0.5))),
            lambda: history.rename(run, "new"),
            lambda: history.delete(run),
        ):
            with pytest.raises(PrunescopeError, match="Permission denied"):
                work()
    finally:
        folder(history).chmod(0o700)


def test_who_waits_too_long_is_told(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    run = history.save(values())
    monkeypatch.setattr(store_module, "_PATIENCE_SECONDS", 0.1)
    with (
        store_module.FileLock(folder(history) / ".lock"),
        pytest.raises(PrunescopeError, match="being changed by another process"),
    ):
        history.rename(run, "new")


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNESCOPE_HISTORY", str(tmp_path / "here"))
    assert history_root() == tmp_path / "here"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/prunescope/runs"),
        ("linux", {}, "~/.local/share/prunescope/runs"),
        ("darwin", {}, "~/Library/Application Support/prunescope/runs"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/prunescope/runs"),
    ],
)
def test_without_it_the_folder_is_where_the_platform_keeps_data(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("PRUNESCOPE_HISTORY", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert history_root() == Path(expected).expanduser()
