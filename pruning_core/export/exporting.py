"""The whole way of an export: pre-flight, files, proof, and only then the name asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.errors import PrunescopeError
from pruning_core.export.card import write_companions
from pruning_core.export.folder import demand_place, demand_room, written_whole
from pruning_core.export.format import Loading, Preflight, Subject
from pruning_core.export.formats import FORMATS, format_named
from pruning_core.export.proof import answers, prove
from pruning_core.progress import Tick, silent

LARGEST_SHARD = 5_000_000_000
"""Bytes of tensors in one file, at the most."""

_BESIDE_WEIGHTS = 50_000_000
# Tokenizer, card and the like.


@dataclass(frozen=True)
class Exported:
    """An export that stands.

    Attributes:
        folder: where it is.
        preflight: what was said before.
        proof: what a fresh process found, or what was found equal where only we can read it.
    """

    folder: Path
    preflight: Preflight
    proof: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "folder": str(self.folder),
            "preflight": self.preflight.as_dict(),
            "proof": dict(self.proof),
        }


def preflights(subject: Subject) -> tuple[Preflight, ...]:
    """Return what every format would do with a plan; nothing is written."""
    return tuple(format.preflight(subject)[0] for format in FORMATS.values())


def export(
    subject: Subject,
    name: str,
    folder: Path,
    *,
    overwrite: bool = False,
    largest_shard: int = LARGEST_SHARD,
    tick: Tick = silent,
) -> Exported:
    """Write a pruned model, prove it, and put it in its place; the model is dense afterwards.

    Args:
        name: of the format.
        folder: what the export becomes.
        overwrite: replace an earlier export that lies there.
        largest_shard: bytes of tensors in one file, at the most.
        tick: hears of the stages ``writing`` and ``proving``.

    Raises:
        PrunescopeError: if the format cannot hold the plan, the folder cannot or may not be
            written, or the proof fails; then nothing is left there.
        Cancelled: by `tick`.
    """
    form = format_named(name)
    demand_place(folder, overwrite=overwrite)
    if subject.source is not None and folder.resolve() == subject.source.resolve():
        raise PrunescopeError(
            f"{folder} is where the model was read from; an export never overwrites that. Choose "
            "another folder."
        )
    found, draft = form.demand(subject)
    demand_room(folder, found.bytes + _BESIDE_WEIGHTS)
    shelf = subject.shelf
    with written_whole(folder, overwrite=overwrite) as partial:
        try:
            with shelf.carrying():
                expected = answers(shelf.model) if draft.loading is not Loading.NONE else None
                draft.write(partial, largest_shard, tick)
                write_companions(subject, found, partial)
                draft.finish(partial)
        finally:
            shelf.bench.restore()
        if expected is None:
            proof: Mapping[str, Any] = {"passed": True, "read_back": draft.check(partial)}
        else:
            proof = prove(partial, expected, draft.loading, tick)
    return Exported(folder, found, proof)
