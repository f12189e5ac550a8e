"""Bringing a repository of the Hugging Face hub to this disk.

A thin layer over huggingface_hub, whose cache, token and environment variables hold unchanged: what
it adds is progress, cancelling, and errors in words. Where the hub can't be reached, what is
already in the cache is used. Fetches configuration and weights separately, so that a pre-flight can
come between them. Opens nothing that it fetches but the index of the weights.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from pruning_core.errors import PrunescopeError
from pruning_core.model.cache import unwritable
from pruning_core.model.reference import ModelRef
from pruning_core.progress import Cancelled, Tick, silent

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_POLL_SECONDS = 0.2
# Configuration and tokenizer in all their spellings; small, and never pickled.
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")


def fetch_configuration(
    ref: ModelRef, *, trust_remote_code: bool = False, tick: Tick = silent
) -> Path:
    """Return the snapshot folder with everything of the repository but its weights.

    Raises:
        PrunescopeError: the repository, its revision or the hub can't be reached or read.
        Cancelled: by `tick`.
    """
    patterns = (*_SMALL_FILES, "*.py") if trust_remote_code else _SMALL_FILES
    folder = _fetch(ref, patterns, tick, "fetching the configuration")
    if not (folder / "config.json").is_file():
        raise PrunescopeError(
            f"{ref} has no config.json on the hub, so it is not a model that transformers can "
            "load. It may hold GGUF files or an adapter only: download the GGUF and name the file, "
            "or name the base model."
        )
    return folder


def fetch_weights(ref: ModelRef, folder: Path, tick: Tick = silent) -> Path:
    """Return the snapshot `folder` with the safetensors weights in it, where the hub has any.

    `folder` is what `fetch_configuration` returned; the weights are of the same commit, even when
    the branch has moved since. Weights that are there already are not asked for again.

    Raises:
        PrunescopeError: they can't be fetched.
        Cancelled: by `tick`; what has arrived stays in the hub's cache and is used next time.
    """
    names = weight_files(folder)
    if all((folder / name).is_file() for name in names):
        return folder
    return _fetch(replace(ref, revision=folder.name), names, tick, "fetching the weights")


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that a checkpoint folder's weights are in, by its index.

    Raises:
        PrunescopeError: the index is damaged.
    """
    index = folder / INDEX
    # transformers prefers the single file where both exist.
    if (folder / SINGLE).is_file() or not index.is_file():
        return (SINGLE,)
    try:
        return tuple(sorted(set(json.loads(index.read_text())["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrunescopeError(
            f"{index} is damaged: it does not say which files hold the weights. Fetch or copy it "
            "again."
        ) from error


def _fetch(ref: ModelRef, patterns: Sequence[str], tick: Tick, stage: str) -> Path:
    """Download in another thread, so that the caller's can report, and leave when told to."""
    download = _Download()
    tick(stage, 0, 0, ref.location)
    executor = ThreadPoolExecutor(1, thread_name_prefix="hub")
    try:
        job: Future[str] = executor.submit(
            huggingface_hub.snapshot_download,
            ref.location,
            revision=ref.revision,
            allow_patterns=list(patterns),
            tqdm_class=_bars(download),
        )
        while True:
            try:
                return Path(job.result(timeout=_POLL_SECONDS))
            except StillRunning:
                tick(stage, download.done, download.wanted, "bytes")
    except Cancelled:
        download.stopped.set()
        raise
    except (httpx2.HTTPError, HFValidationError, OSError) as error:
        raise _explain(ref, error) from error
    finally:
        executor.shutdown(wait=False)


@dataclass
class _Download:
    """What the downloading thread and the reporting one tell each other; sizes in bytes."""

    done: int = 0
    wanted: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)


def _bars(download: _Download) -> type[tqdm]:
    """Return a progress bar class that shows nothing, counts bytes, and ends a stopped download.

    A class, because that is what huggingface_hub makes its several bars from.
    """

    class Bars(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            # Of the two bars in bytes, this one counts what has reached the disk.
            self._counts = str(options.get("desc")).startswith("Reconstruct")

        def update(self, n: float | None = 1) -> None:
            if download.stopped.is_set():
                raise Cancelled
            if self._counts:
                download.done += int(n or 0)
                download.wanted = int(self.total or 0)

    return Bars


def _explain(ref: ModelRef, error: Exception) -> PrunescopeError:
    name = ref.location
    if isinstance(error, GatedRepoError):
        return PrunescopeError(
            f"{name} is gated: its owner lets only people in who asked. Ask on its page on the "
            "hub, then log in with `hf auth login` and try again."
        )
    if isinstance(error, RepositoryNotFoundError):
        return PrunescopeError(
            f"The hub has no model {name!r}, or it is private. Check the spelling ('org/name'); "
            "for a private model, log in with `hf auth login`."
        )
    if isinstance(error, RevisionNotFoundError):
        return PrunescopeError(
            f"{name} has no revision {ref.revision!r}. Its page on the hub lists branches, tags "
            "and commits; without '@...' the default branch is taken."
        )
    if isinstance(error, HFValidationError):
        return PrunescopeError(f"{name!r} can't be a hub id, which is written 'org/name': {error}")
    if isinstance(error, LocalEntryNotFoundError):
        return PrunescopeError(
            f"{ref} is not, or not wholly, on this disk, and the hub can't be reached. Check the "
            "network (and that HF_HUB_OFFLINE is not set), or load the demo model, a folder or a "
            ".gguf file."
        )
    if isinstance(error, HfHubHTTPError):
        return PrunescopeError(
            f"The hub refused {ref}: {str(error).strip().splitlines()[0]} Try again later."
        )
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return unwritable(Path(huggingface_hub.constants.HF_HUB_CACHE), error, "HF_HOME")
    return PrunescopeError(
        f"The connection to the hub broke while {ref} was fetched. What has arrived is kept: check "
        "the network and its proxy settings, and try again."
    )
