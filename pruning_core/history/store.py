"""The folder of saved runs: one JSON file a run, in a folder for each model.

Several tabs and processes may use one history at once. A file is whole or not there; whoever
changes the folder holds its lock for that moment, readers need none. A file that is no saved run
is left alone and reported.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pruning_core.errors import PrunescopeError
from pruning_core.files import sweep, unwritable, written_whole
from pruning_core.history.saved import (
    LONGEST_LINEAGE,
    SavedRun,
    check_fingerprint,
    check_id,
    clean_name,
    parse,
    saved_run,
)

_LOCK = ".lock"
_PATIENCE_SECONDS = 20
_LARGEST_BYTES = 4_000_000
"""No run's file comes near it: what is larger is something else, and is not read."""


def history_root() -> Path:
    """Return the folder for saved runs; it need not exist yet.

    ``PRUNESCOPE_HISTORY`` names it; without that it is ``prunescope/runs`` in the platform's folder
    for the user's data.
    """
    if chosen := os.environ.get("PRUNESCOPE_HISTORY"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "prunescope" / "runs"


@dataclass(frozen=True)
class Unreadable:
    """A file among the saved runs that is none, and why."""

    path: Path
    why: str


class History:
    """The saved runs of all models, in one folder.

    Nothing is kept in memory but what was read of files that have not changed since.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[tuple[int, int, int], SavedRun | Unreadable]] = {}

    def fingerprints(self) -> tuple[str, ...]:
        """Return the models that have files here, by the fingerprint of their weights.

        Raises:
            PrunescopeError: if the folder is there and cannot be read.
        """
        return tuple(path.name for path in _entries(self.folder) if any(self._files(path.name)))

    def runs(self, fingerprint: str) -> tuple[SavedRun, ...]:
        """Return the runs of a model, oldest first.

        Raises:
            PrunescopeError: if the folder is there and cannot be read.
        """
        found = (self._look(path) for path in self._files(fingerprint))
        return tuple(run for run in found if isinstance(run, SavedRun))

    def unreadable(self, fingerprint: str) -> tuple[Unreadable, ...]:
        """Return the files among a model's runs that are none; the same errors as `runs`."""
        found = (self._look(path) for path in self._files(fingerprint))
        return tuple(file for file in found if isinstance(file, Unreadable))

    def find(self, fingerprint: str, run_id: str) -> SavedRun | None:
        """Return a run, or None if it is not, or no longer, there and readable."""
        found = self._look(self._path(fingerprint, run_id))
        return found if isinstance(found, SavedRun) else None

    def save(
        self,
        values: Mapping[str, Any],
        parent: SavedRun | None = None,
        name: str = "",
        predicted: float | None = None,
    ) -> SavedRun:
        """Save a run, unless its recipe was measured under the same conditions before.

        Args:
            values: what `Run.as_dict` returned.
            parent: the run whose recipe was changed into this one's; None starts a new tree.
            name: what the user calls it.
            predicted: the loss that was predicted for it, nats per token.

        Returns:
            The run as saved, or the one that was there.

        Raises:
            PrunescopeError: if it is no run, or cannot be written; then nothing has changed.
        """
        lineage = (*parent.lineage, parent.id)[-LONGEST_LINEAGE:] if parent else ()
        created = datetime.now(UTC)
        history = {
            "id": f"{time.time_ns() // 1000:013x}-{secrets.token_hex(4)}",
            "lineage": list(lineage),
            "name": clean_name(name),
            "created": created.isoformat(timespec="milliseconds"),
            **({} if predicted is None else {"predicted_loss": predicted}),
        }
        try:
            # Read back from its own text: it can be read, and is nobody else's to change.
            new = saved_run(parse(_as_text({**values, "history": history})))
        except PrunescopeError as error:
            raise PrunescopeError(f"This run cannot be saved. {error}") from error
        with self._alone(new.fingerprint):
            for run in self.runs(new.fingerprint):
                if (run.digest, run.conditions) == (new.digest, new.conditions):
                    return run
            self._write(new)
        return new

    def rename(self, run: SavedRun, name: str) -> SavedRun:
        """Give a run another name, and return it as it then is.

        Raises:
            PrunescopeError: if it was deleted meanwhile, the name is too long, or it cannot be
                written.
        """
        return self._changed(run, "renamed", lambda present: present.renamed(name))

    def ask(self, run: SavedRun, tasks: Mapping[str, Mapping[str, Any]]) -> SavedRun:
        """Keep what was asked of a run after it was saved, and return it as it then is.

        Args:
            tasks: as ``evaluate`` reports them, by name; those that were asked before are replaced.

        Raises:
            PrunescopeError: if it was deleted meanwhile, the tasks are none, or it cannot be
                written.
        """
        return self._changed(run, "added to", lambda present: present.asked(tasks))

    def _changed(
        self, run: SavedRun, done: str, change: Callable[[SavedRun], SavedRun]
    ) -> SavedRun:
        with self._alone(run.fingerprint):
            present = self.find(run.fingerprint, run.id)
            if present is None:
                raise PrunescopeError(
                    f"{run.label} was not {done}: it has been deleted or damaged meanwhile, "
                    "perhaps in another tab."
                )
            changed = change(present)
            self._write(changed)
        return changed

    def delete(self, run: SavedRun) -> None:
        """Delete a run; its children move up to its parent. One that is gone already stays gone.

        Raises:
            PrunescopeError: if it cannot be deleted.
        """
        path = self._path(run.fingerprint, run.id)
        if not path.exists():
            return
        with self._alone(run.fingerprint):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise PrunescopeError(
                    f"{path} could not be deleted: {error.strerror or error}."
                ) from error

    def _write(self, run: SavedRun) -> None:
        path = self._path(run.fingerprint, run.id)
        with written_whole(path) as partial:
            partial.write_text(_as_text(run.values), encoding="utf-8")

    @contextmanager
    def _alone(self, fingerprint: str) -> Iterator[None]:
        """Keep everyone else from changing a model's runs; a killed process lets go by itself."""
        folder = self._folder(fingerprint)
        lock = FileLock(folder / _LOCK, timeout=_PATIENCE_SECONDS, poll_interval=0.01)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise PrunescopeError(
                f"The saved runs in {folder} are being changed by another process for more than "
                f"{_PATIENCE_SECONDS} seconds. Try again, or end that process."
            ) from error
        except OSError as error:
            raise unwritable(folder / _LOCK, error) from error
        try:
            sweep(folder)
            yield
        finally:
            lock.release()

    def _look(self, path: Path) -> SavedRun | Unreadable | None:
        """Return what a file holds, None where there is none; read only if it is another one."""
        try:
            state = path.stat()
            # A file is never changed, only replaced, so these three tell one from the next.
            seen = (state.st_ino, state.st_mtime_ns, state.st_size)
            known = self._read.get(path)
            if known and known[0] == seen:
                return known[1]
            found = _read(path, state.st_size)
        except FileNotFoundError:
            self._read.pop(path, None)
            return None
        except OSError as error:
            return Unreadable(path, f"It cannot be read: {error.strerror or error}.")
        self._read[path] = seen, found
        return found

    def _files(self, fingerprint: str) -> list[Path]:
        """Return the files among a model's runs, in the order of their names."""
        files = _entries(self._folder(fingerprint))
        return [path for path in files if path.suffix == ".json" and path.name[0] != "."]

    def _folder(self, fingerprint: str) -> Path:
        return self.folder / check_fingerprint(fingerprint)

    def _path(self, fingerprint: str, run_id: str) -> Path:
        return self._folder(fingerprint) / f"{check_id(run_id)}.json"


def _as_text(values: Mapping[str, Any]) -> str:
    """Return a run as the text of its file.

    Raises:
        PrunescopeError: if it holds what JSON has no words for, or far too much.
    """
    try:
        text = json.dumps(values, indent=2, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PrunescopeError("It holds values that JSON has no words for.") from error
    if len(text) > _LARGEST_BYTES:
        raise PrunescopeError(f"It has {len(text):,} bytes: no run has that many.")
    return text


def _read(path: Path, size: int) -> SavedRun | Unreadable:
    """Return the run in a file, or why there is none. Raises OSError where it can't be read."""
    if not path.is_file():
        return Unreadable(path, "It is no file.")
    if size > _LARGEST_BYTES:
        return Unreadable(path, f"It has {size:,} bytes: no run has that many.")
    try:
        run = saved_run(parse(path.read_bytes().decode()))
    except UnicodeDecodeError:
        return Unreadable(path, "It is not text.")
    except PrunescopeError as error:
        return Unreadable(path, str(error))
    if (run.fingerprint, run.id) != (path.parent.name, path.stem):
        return Unreadable(path, "It is a copy of a run, or one of another model: its place differs")
    return run


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name; nothing where there is no folder."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PrunescopeError(
            f"The saved runs in {folder} cannot be read: {error.strerror or error}. Make the "
            "folder readable, or set PRUNESCOPE_HISTORY to another one."
        ) from error
