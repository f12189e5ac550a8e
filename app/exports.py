"""Exports of the model on the bench: what each format would do with a plan, and what was written.

Lives and dies with the model. All that touches it runs on the engine's one worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.recent import Recent
from pruning_core.errors import PrunescopeError
from pruning_core.progress import Tick
from pruning_core.recipe import Recipe

if TYPE_CHECKING:
    from pruning_core.export.exporting import Exported
    from pruning_core.export.format import Preflight, Subject
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.plan import Plan
    from pruning_core.surgery.workbench import Workbench

KEPT = 16
"""For how many candidates it is kept what the formats say, and what was written."""

Candidate = tuple[Recipe, str | None]
"""What may be exported: a recipe, and what identifies the training that followed; None if none."""


@dataclass(frozen=True)
class Order:
    """What is to be exported.

    Attributes:
        recipe: what is pruned.
        format: the name of one.
        folder: what the export becomes.
        overwrite: whether an earlier export that lies there may be replaced.
        run: the id of the saved run whose numbers go into the model card, None for none.
        trained: identifies what was learned after the pruning and goes along, None for nothing.
    """

    recipe: Recipe
    format: str
    folder: Path
    overwrite: bool = False
    run: str | None = None
    trained: str | None = None

    @property
    def candidate(self) -> Candidate:
        """What of the recipe is exported."""
        return self.recipe, self.trained


@dataclass(frozen=True)
class Written:
    """An export that stands, proven.

    Attributes:
        order: what was asked for.
        done: what was written, and what the proof found.
        bytes: what the folder takes on the disk, everything in it.
        seconds: that writing and proving took.
    """

    order: Order
    done: Exported
    bytes: int
    seconds: float


class Exports:
    """The exports of one model.

    Attributes:
        formats: what each format would do with a candidate.
        written: the last export of each.
        source: the folder that the model was read from, None if it was none.
    """

    def __init__(self, loaded: LoadedModel, bench: Workbench) -> None:
        from pruning_core.export.format import source_of

        self.formats: Recent[Candidate, tuple[Preflight, ...]] = Recent(KEPT)
        self.written: Recent[Candidate, Written] = Recent(KEPT)
        self.source = source_of(loaded)
        self._loaded = loaded
        self._bench = bench

    def look(self, candidate: Candidate, plan: Plan) -> None:
        """Find out what each format would do with a candidate's plan; nothing is written."""
        from pruning_core.export.exporting import preflights

        with self._bench.applied(None):
            self.formats[candidate] = preflights(self._subject(plan, None, None))

    def write(
        self,
        order: Order,
        plan: Plan,
        run: Mapping[str, Any] | None,
        recovery: Mapping[str, Any] | None,
        tick: Tick,
    ) -> Written:
        """Write an export and prove it.

        Args:
            order: what is asked for.
            plan: of its candidate.
            run: a saved run of the recipe as plain values, for the model card.
            recovery: the record of the training, if there was one; for the card, too.
            tick: hears of it.

        Raises:
            PrunescopeError: if it cannot or may not be written, or the proof fails; then what lay
                there before still does.
            Cancelled: by `tick`; the same.
        """
        from pruning_core.export.card import numbers
        from pruning_core.export.exporting import export

        if run is not None:
            numbers(run)  # a run that lacks one is refused before anything is written
        started = time.monotonic()
        with self._bench.applied(None):
            done = export(
                self._subject(plan, run, recovery),
                order.format,
                order.folder,
                overwrite=order.overwrite,
                tick=tick,
            )
        files = (path for path in done.folder.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        written = Written(order, done, size, time.monotonic() - started)
        self.written[order.candidate] = written
        return written

    def _subject(
        self, plan: Plan, run: Mapping[str, Any] | None, recovery: Mapping[str, Any] | None
    ) -> Subject:
        from pruning_core.export.format import Subject

        return Subject.of(self._loaded, self._bench, plan, run=run, recovery=recovery)


def demand_place_for(order: Order) -> None:
    """Refuse a place that cannot or may not be written, before any work is done for it.

    Raises:
        PrunescopeError: if it is one.
    """
    from pruning_core.export.folder import demand_place

    if order.folder.is_dir() and not order.overwrite:
        raise PrunescopeError(
            f"The folder {order.folder} has come into being meanwhile. Choose another name, or "
            "replace what lies there."
        )
    demand_place(order.folder, overwrite=order.overwrite)
