"""What every export format has in common: a pre-flight before anything is written, then the files.

A format is one file under `formats`. It is given a `Subject`, looks at the plan, and returns a
`Draft`: what the pre-flight says, and the way to write it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from transformers import PreTrainedTokenizerBase

from pruning_core.errors import PrunescopeError
from pruning_core.export.shelf import Shelf
from pruning_core.model.loading import LoadedModel
from pruning_core.planning.plan import Plan
from pruning_core.progress import Tick
from pruning_core.surgery.workbench import Workbench


class Loading(StrEnum):
    """How the proof opens an export.

    STOCK: transformers alone. TRUSTED: transformers with the code that lies beside the weights.
    GGUF: transformers, out of a GGUF file. NONE: nothing but Prunescope does.
    """

    STOCK = "stock"
    TRUSTED = "trusted"
    GGUF = "gguf"
    NONE = "none"


def source_of(loaded: LoadedModel) -> Path | None:
    """Return the folder that a model was read from, None if it was none."""
    source = Path(loaded.model.config.name_or_path or "")
    return source if source.name and source.is_dir() else None


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        shelf: the model, with the plan that it is to carry.
        tokenizer: goes along.
        model: where the dense model came from, as text.
        fingerprint: of its weights.
        source: the folder it was read from, None if it was none.
        run: a saved run of this recipe as plain values, whose numbers go into the model card.
        recovery: the record of how it was trained after it was cut, as plain values.
    """

    shelf: Shelf
    tokenizer: PreTrainedTokenizerBase
    model: str
    fingerprint: str
    source: Path | None = None
    run: Mapping[str, Any] | None = None
    recovery: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        bench: Workbench,
        plan: Plan,
        *,
        run: Mapping[str, Any] | None = None,
        recovery: Mapping[str, Any] | None = None,
    ) -> Self:
        """Take a loaded model, which is dense from here on."""
        return cls(
            Shelf.of(bench, plan),
            loaded.tokenizer,
            str(loaded.ref),
            loaded.fingerprint,
            source_of(loaded),
            run,
            recovery,
        )

    @property
    def name(self) -> str:
        """The dense model's name, without the folders of this machine."""
        return Path(self.model).name or self.model


@dataclass(frozen=True)
class Preflight:
    """What a format would do with a plan, known before anything is written.

    Attributes:
        format: its name.
        title: what it is.
        possible: whether it can hold this plan.
        reason: why not; empty where it can.
        bytes: what its weights will take; 0 where it cannot.
        dense_bytes: what the dense model's weights take in their present number format.
        opens: what opens it.
        notes: what a user should know, a sentence each.
    """

    format: str
    title: str
    possible: bool
    reason: str
    bytes: int
    dense_bytes: int
    opens: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def saves(self) -> float:
        """The fraction of the dense model's bytes that is saved; 0 where it is impossible."""
        return 1 - self.bytes / self.dense_bytes if self.possible else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {**vars(self), "saves": self.saves}


class Draft(ABC):
    """An export that can be written."""

    loading: Loading

    @property
    @abstractmethod
    def bytes(self) -> int:
        """What the weights will take."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know, a sentence each."""
        return ()

    @abstractmethod
    def write(self, folder: Path, largest: int, tick: Tick) -> None:
        """Write what is this format's own into an empty folder; the model carries the plan.

        Args:
            largest: bytes of tensors in one file at the most.

        Raises:
            OSError: if it cannot be written.
        """

    def finish(self, folder: Path) -> None:  # noqa: B027 - most formats have nothing to add
        """Write what must come last: a loader takes the folder for a checkpoint from then on.

        Raises:
            OSError: if it cannot be written.
        """

    def check(self, folder: Path) -> str:
        """Read back what `Loading.NONE` leaves to the format itself; return what was found equal.

        Raises:
            PrunescopeError: if it is not what was to be written.
        """
        raise AssertionError(f"{type(self).__name__} is proven by loading it")


class Impossible(Exception):
    """A format cannot hold a plan; the text says why, without a full stop."""


@dataclass(frozen=True)
class Format:
    """One way to keep a pruned model.

    Attributes:
        name: as users write it.
        title: what it is, in a line.
        opens: what opens it.
        draft: returns the export of a subject. Raises `Impossible`.
    """

    name: str
    title: str
    opens: tuple[str, ...]
    draft: Callable[[Subject], Draft]

    def preflight(self, subject: Subject) -> tuple[Preflight, Draft | None]:
        """Return what the format would do, and the export if it can be written."""
        dense = subject.shelf.bench.dense_bytes
        try:
            draft = self.draft(subject)
        except Impossible as reason:
            text = str(reason)
            text = text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
            return Preflight(self.name, self.title, False, text, 0, dense, self.opens), None
        found = Preflight(
            self.name, self.title, True, "", draft.bytes, dense, self.opens, draft.notes
        )
        return found, draft

    def demand(self, subject: Subject) -> tuple[Preflight, Draft]:
        """Return the same as `preflight` does, if the format can hold the plan.

        Raises:
            PrunescopeError: if it cannot.
        """
        found, draft = self.preflight(subject)
        if draft is None:
            raise PrunescopeError(
                f"The format {self.name!r} cannot hold this plan. {found.reason} See "
                "--check-only for the formats that can."
            )
        return found, draft
