"""The folder of a recovery: checkpoints while it is trained, the adapters and their record after.

    DIR/checkpoint-00000040/   adapters, moments of the optimiser, how far it was; one at a time
    DIR/adapter_model.safetensors, adapter_config.json   what has been learned, as peft writes it
    DIR/recovery.json          the record; where it lies, the recovery is finished

A checkpoint is written under another name and renamed, and the one before it goes after that, so
whenever the process is killed there is a whole one. The record comes last.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.errors import PrunescopeError
from pruning_core.files import demand_folder, keep, unwritable, written_whole
from pruning_core.recovery.adapters import CONFIG, WEIGHTS

FORMAT = "prunescope-recovery/1"
RECORD = "recovery.json"

_CHECKPOINT = "checkpoint-"
_STATE = "state.json"
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Checkpoint:
    """A place to go on from.

    Attributes:
        folder: holds the adapters and the optimiser's moments.
        state: what else is known, as plain values.
    """

    folder: Path
    state: Mapping[str, Any]


@dataclass(frozen=True)
class RecoveryFolder:
    """One folder, which need not exist yet."""

    path: Path

    def demand(self, *, resume: bool) -> None:
        """Refuse a folder that is in use, before any work is done for it.

        Args:
            resume: what lies there from before is gone on with.

        Raises:
            PrunescopeError: if something lies there, or nothing can be written there.
        """
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_dir()):
            raise PrunescopeError(
                f"{self.path} is there already and no folder. Choose another name."
            )
        held = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        ours = any(name == RECORD or name.startswith(_CHECKPOINT) for name in held)
        if held and ours and not resume:
            raise PrunescopeError(
                f"The folder {self.path} holds a recovery already. Say --resume to go on with it, "
                "or choose another folder."
            )
        if held and not ours and not all(name.startswith(".") for name in held):
            raise PrunescopeError(
                f"The folder {self.path} holds other things than a recovery. Choose another."
            )
        demand_folder(self.path / f".{secrets.token_hex(4)}{_PARTIAL}", self.path)

    def checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, None where there is none.

        Raises:
            PrunescopeError: if it cannot be read.
        """
        found = sorted(self.path.glob(f"{_CHECKPOINT}*"))
        if not found:
            return None
        return Checkpoint(found[-1], _read(found[-1] / _STATE))

    def keep(self, step: int, state: Mapping[str, Any], write: Callable[[Path], None]) -> None:
        """Write a checkpoint, and delete the one before it.

        Args:
            step: how many steps are done.
            state: plain values.
            write: writes adapters and moments into an empty folder.

        Raises:
            PrunescopeError: if it cannot be written; the one before it stays.
        """
        target = self.path / f"{_CHECKPOINT}{step:08}"
        partial = self.path / f".{target.name}.{secrets.token_hex(4)}{_PARTIAL}"
        try:
            partial.mkdir(parents=True)
            write(partial)
            (partial / _STATE).write_text(_json(state))
            for path in (*partial.iterdir(), partial):
                keep(path)
            if target.exists():  # of the same step, so it says the same
                return
            partial.rename(target)
            keep(self.path)
        except OSError as error:
            raise unwritable(target, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._drop(but=target)

    def finish(
        self, write: Callable[[Path], None], record: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Write what has been learned and, last of all, the record; the checkpoints go.

        Args:
            write: writes adapters into a folder.
            record: returns the record, once the adapters are in their place.

        Raises:
            PrunescopeError: if they cannot be written.
        """
        partial = self.path / f".{secrets.token_hex(4)}{_PARTIAL}"
        try:
            partial.mkdir(parents=True)
            write(partial)
            for name in (WEIGHTS, CONFIG):
                keep(partial / name)
                os.replace(partial / name, self.path / name)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.note(record())
        self._drop(but=None)

    def note(self, record: Mapping[str, Any]) -> None:
        """Write the record.

        Raises:
            PrunescopeError: if it cannot be written.
        """
        with written_whole(self.path / RECORD) as place:
            place.write_text(_json(record))

    @property
    def finished(self) -> bool:
        """Whether there is a record."""
        return (self.path / RECORD).is_file()

    def record(self) -> Mapping[str, Any]:
        """Return the record of a finished recovery.

        Raises:
            PrunescopeError: if there is none, or it is not one of ours.
        """
        if not self.finished:
            cure = "Finish it with --resume." if self.checkpoint() else "Name the folder of one."
            raise PrunescopeError(f"{self.path} holds no finished recovery. {cure}")
        values = _read(self.path / RECORD)
        if values.get("format") != FORMAT:
            raise PrunescopeError(
                f"The format of {self.path / RECORD} is {values.get('format')!r}; this version "
                f"reads {FORMAT!r}."
            )
        return values

    def _drop(self, but: Path | None) -> None:
        for path in self.path.glob(f"{_CHECKPOINT}*"):
            if path != but:
                shutil.rmtree(path, ignore_errors=True)
        # What a kill has left half written; nobody else writes here.
        for path in self.path.glob(f".*{_PARTIAL}"):
            shutil.rmtree(path, ignore_errors=True)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, allow_nan=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrunescopeError(
            f"{path} cannot be read: {error}. Choose another folder, or train again."
        ) from error
    if not isinstance(values, dict):
        raise PrunescopeError(f"{path} must hold a JSON object. Train again.")
    return values
