"""What has been scored so far, on disk: a task that was killed goes on where it was.

One file a task and model, one line a batch, each with a checksum, each forced to the disk before
the next batch begins. A line that a kill cut short is cut off when the file is read again. The
first line says what the numbers are of; a file that is of something else is never continued.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import Vote
from pruning_core.files import unwritable
from pruning_core.model.cache import cache_root

Votes = Mapping[int, tuple[Vote, ...]]
"""Votes by the index of the item."""


class Journal:
    """The batches of one measurement; open it in a ``with``, which keeps other processes out."""

    def __init__(self, identity: Mapping[str, Any], *, resume: bool, folder: Path | None = None):
        """Prepare, without touching the disk.

        Args:
            identity: all that the numbers depend on, ready for JSON.
            resume: keep what is there of the same identity; else begin anew.
            folder: where the files are, by default in the cache.
        """
        self._head = json.dumps(identity, sort_keys=True)
        name = hashlib.sha256(self._head.encode()).hexdigest()[:32]
        self.path = (folder or cache_root() / "evaluations") / f"{name}.jsonl"
        self._resume = resume
        self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
        self.done: dict[int, tuple[Vote, ...]] = {}

    def __enter__(self) -> Journal:
        """Take the file and read what is in it.

        Raises:
            PrunescopeError: if another process is at it, or it can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise PrunescopeError(
                "Another process is measuring the very same thing. Wait for it, or end it."
            ) from error
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            self._file = self.path.open("r+b" if self._resume and self.path.exists() else "w+b")
            end = self._read()
            self._file.seek(end)
            self._file.truncate()
            if not end:
                self._write(self._head)
        except OSError as error:
            self._lock.release()
            raise unwritable(self.path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def add(self, votes: Votes) -> None:
        """Keep a batch; once this returns, no kill loses it.

        Raises:
            PrunescopeError: if it can't be written.
        """
        plain = {str(i): [[v.likelihood, v.greedy] for v in said] for i, said in votes.items()}
        try:
            self._write(json.dumps(plain))
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.done |= votes

    def _write(self, text: str) -> None:
        self._file.write(f"{_checksum(text)} {text}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> int:
        """Read all whole lines, and return where they end."""
        end = 0
        for number, line in enumerate(self._file):
            text = _checked(line)
            if text is None or (number == 0 and text != self._head):
                break
            if number:
                self.done |= {
                    int(index): tuple(Vote(*vote) for vote in said)
                    for index, said in json.loads(text).items()
                }
            end += len(line)
        return end


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checked(line: bytes) -> str | None:
    """Return the text of a whole line, None for one that is cut short or damaged."""
    try:
        checksum, _, text = line.decode().partition(" ")
    except UnicodeDecodeError:
        return None
    if not text.endswith("\n") or checksum != _checksum(text[:-1]):
        return None
    return text[:-1]
