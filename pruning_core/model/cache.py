"""A folder in the cache that is either whole or absent.

`obtain` returns a folder that carries a manifest and agrees with it, and has it built where it does
not. A builder works in a temporary sibling that is renamed into place at the end, so a build that
is cancelled, killed or runs out of disk is never taken for whole. Two processes may build at once:
both finish, one wins, the other uses the winner's. It does not lock, and deletes nothing that it
did not write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pruning_core.errors import PrunescopeError

MANIFEST = "prunescope-manifest.json"

_PARTIAL = ".partial-"
# A build takes a minute; what is a day old was left by a process that was killed.
_ABANDONED_AFTER_SECONDS = 24 * 3600


def cache_root() -> Path:
    """Return the folder for files that can be made again; it need not exist yet.

    ``PRUNESCOPE_CACHE`` names it; without that it is ``prunescope`` in the platform's folder for
    the user's caches.
    """
    if chosen := os.environ.get("PRUNESCOPE_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "prunescope"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex. Raises OSError where it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def obtain(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target` with whole contents, building it first where it is missing or damaged.

    Args:
        target: the folder wanted; its parents are made.
        build: fills the empty folder it is given. Whatever it raises passes through, after what it
            wrote has been deleted.

    Raises:
        PrunescopeError: the disk is full, or the cache can't be written.
    """
    if damage(target) is None:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f"{target.name}{_PARTIAL}", ignore_cleanup_errors=True
        ) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            build(fresh)
            _write_manifest(fresh)
            _put_in_place(fresh, target, Path(scratch) / "old")
    except OSError as error:
        raise unwritable(target.parent, error, "PRUNESCOPE_CACHE") from error
    return target


def damage(folder: Path) -> str | None:
    """Say what keeps `folder` from being whole, or None: every file is there with its digest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files: dict[str, dict[str, int | str]] = manifest["files"]
        for name, expected in files.items():
            if (folder / name).stat().st_size != expected["bytes"]:
                return f"{name} has another size than when it was written"
        for name, expected in files.items():
            if sha256(folder / name) != expected["sha256"]:
                return f"{name} has other contents than when it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest can't be read"
    except OSError as error:
        return f"it can't be read: {error.strerror}"
    return None


def unwritable(folder: Path, error: OSError, variable: str) -> PrunescopeError:
    """Return the error for a cache that can't be written, in words, with the cure.

    Args:
        folder: the cache.
        error: what the system said.
        variable: the environment variable that moves this cache elsewhere.
    """
    cure = f"or set {variable} to a folder on another disk"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PrunescopeError(f"The disk that holds {folder} is full. Free some space, {cure}.")
    return PrunescopeError(
        f"The cache folder {folder} can't be written: {error.strerror or error}. "
        f"Make it writable, {cure}."
    )


def _write_manifest(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def _put_in_place(fresh: Path, target: Path, old: Path) -> None:
    """Rename `fresh` to `target`; where another process was faster, keep its folder."""
    if target.exists():
        if damage(target) is None:
            return
        os.replace(target, old)
    try:
        os.replace(fresh, target)
    except OSError:
        # Somebody put theirs in between the two renames. That is as good as ours, if it is whole.
        if damage(target) is not None:
            raise


def _sweep(target: Path) -> None:
    """Delete what killed builds of this very folder left behind."""
    for left in target.parent.glob(f"{target.name}{_PARTIAL}*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
