"""Files that are whole or not there: what is half written never carries the name of the whole.

Knows nothing of what is written. The folder above a file is made when the file is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning_core.errors import PrunescopeError

_PARTIAL = ".partial"
_ABANDONED_AFTER_SECONDS = 24 * 3600


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a place beside `path` to write to; what lies there at the end becomes `path`.

    A failure inside, a kill or a machine that loses power leaves the old file or the new one.

    Raises:
        PrunescopeError: if the file cannot be written.
    """
    partial = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        # A rename can reach the disk before the bytes it names: that would leave an empty file.
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        with contextlib.suppress(OSError):
            keep(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        # Where no file can lie (a name too long, a parent that is a file), none can be removed.
        with contextlib.suppress(OSError):
            partial.unlink()


def demand_writable(path: Path) -> None:
    """Refuse a place that `written_whole` could not use, before hours of work are done for it.

    Tries it with an empty file. Nothing of the trial stays, the folders made for it included.

    Raises:
        PrunescopeError: if no file can be written there.
    """
    partial = _beside(path)
    absent = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w"):
            pass
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
        with contextlib.suppress(OSError):
            for folder in absent:
                folder.rmdir()


def demand_folder(trial: Path, target: Path) -> None:
    """Refuse a place where no folder can be made, before hours of work are done for it.

    Nothing of the trial stays, the folders made for it included.

    Args:
        trial: a folder that is not there, made and taken away again.
        target: what the sentence names.

    Raises:
        PrunescopeError: if it cannot be made.
    """
    absent = [folder for folder in trial.parents if not folder.exists()]
    try:
        trial.mkdir(parents=True)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            trial.rmdir()
            for folder in absent:
                folder.rmdir()


def keep(path: Path) -> None:
    """Put a file's bytes, or a folder's names, on the disk where the system can.

    Raises:
        OSError: if that fails.
    """
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Delete what writers that were killed left half written in a folder, a day ago or longer."""
    for left in folder.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                left.unlink()


def unwritable(path: Path, error: Exception) -> PrunescopeError:
    """Return the error for a file that cannot be written, with the system's word on why."""
    why = isinstance(error, OSError) and error.strerror
    return PrunescopeError(
        f"{path} could not be written: {why or error}. Free some space or choose another place."
    )


def _beside(path: Path) -> Path:
    # A folder has no room for a file's text, and replacing a device would take it from everyone.
    if os.path.exists(path) and not os.path.isfile(path):
        raise PrunescopeError(
            f"{path} could not be written: it is there already and no file. Name a file."
        )
    # Two threads may write one file at once: each needs a place of its own.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
