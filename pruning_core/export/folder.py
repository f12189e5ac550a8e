"""A folder that is whole or not there: written beside its place under another name, then renamed.

An export that is cancelled, killed or runs out of disk leaves nothing under the name that was asked
for. What a kill leaves under the other name has no config.json before its very end, so that no
loader takes it for a checkpoint.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning_core.errors import PrunescopeError
from pruning_core.files import demand_folder, keep, unwritable

MANIFEST = "prunescope-export.json"
"""What says that a folder is an export of ours, so that it may be overwritten when asked."""

_PARTIAL = ".partial"
_ABANDONED_AFTER_SECONDS = 24 * 3600


def demand_place(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where no folder can or may be written, before any work is done for it.

    Raises:
        PrunescopeError: if something lies there that may not be overwritten, or nothing can be
            written there.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise PrunescopeError(
            f"{target} is there already and no folder. Choose another name for the export."
        )
    if target.is_dir():
        if not overwrite:
            raise PrunescopeError(
                f"The folder {target} is there already. Choose another, or say --overwrite to "
                "replace an earlier export."
            )
        if next(target.iterdir(), None) and not (target / MANIFEST).is_file():
            raise PrunescopeError(
                f"The folder {target} holds other things than an export of ours, and those are "
                "never overwritten. Choose another folder."
            )
    demand_folder(_beside(target), target)


def demand_room(target: Path, needed: int) -> None:
    """Refuse a disk that has not room for so many bytes.

    Raises:
        PrunescopeError: if it has not.
    """
    there = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise PrunescopeError(
            f"{target} needs {needed / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB free. "
            "Free some space or choose another place."
        )


@contextmanager
def written_whole(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill; at the end it becomes `target`.

    A failure inside, a kill or a machine that loses power leaves the old folder or the new one.

    Raises:
        PrunescopeError: as `demand_place`, or if writing fails.
    """
    demand_place(target, overwrite=overwrite)
    sweep(target.parent)
    partial = _beside(target)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                keep(path)
        demand_place(target, overwrite=overwrite)  # it may have come into being meanwhile
        _swap(partial, target)
        keep(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Delete what exports that were killed left half written beside others, a day ago or longer."""
    for left in parent.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if left.is_dir() and time.time() - left.stat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(left)


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}")


def _swap(partial: Path, target: Path) -> None:
    """Rename a folder into place; what was there before goes once the new one stands."""
    if not target.exists():
        partial.rename(target)
        return
    old = _beside(target)
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
