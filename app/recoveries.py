"""Trainings of what a recipe has left of the model on the bench, and what they came to.

Lives and dies with the model; the folders of trainings stay, and what was finished, cancelled or
killed there is gone on with when the same is asked for again. All that touches the model runs on
the engine's one worker thread.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.recent import Recent
from pruning_core.errors import PrunescopeError
from pruning_core.files import unwritable
from pruning_core.model.cache import cache_root
from pruning_core.progress import Tick
from pruning_core.recipe import Recipe
from pruning_core.recovery.settings import Settings

if TYPE_CHECKING:
    from app.probes import Probe
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.plan import Plan
    from pruning_core.recovery.training import Pace, Point
    from pruning_core.surgery.workbench import Workbench

KEPT = 16
"""Of how many recipes it is kept what their last training came to."""

KEPT_PLANS = 2
"""How many trained plans are kept, each as large as the layers of the model."""

_OFTEN = 8
"""How often in a short training the probe is measured and a checkpoint is written."""


def recovery_root() -> Path:
    """Return the folder for trainings; it need not exist yet.

    ``PRUNESCOPE_RECOVERY`` names it; without that it is ``recovery`` beside what is cached.
    """
    if chosen := os.environ.get("PRUNESCOPE_RECOVERY"):
        return Path(chosen).expanduser().absolute()
    return cache_root() / "recovery"


@dataclass(frozen=True)
class Training:
    """What is to be trained, and how.

    Attributes:
        recipe: of the plan that is trained.
        settings: of the training.
        protocol: of the probe that shows how it goes.
        dtype: the number format of the model.
        allow_leak: let the probe overlap with text that is learned from.
        anew: delete what lies in the folder instead of going on with it.
    """

    recipe: Recipe
    settings: Settings
    protocol: Protocol
    dtype: str
    allow_leak: bool = False
    anew: bool = False

    @property
    def folder(self) -> Path:
        """Where it lies: one folder for all that decides its numbers and its curve."""
        decides = [self.settings.as_dict(), vars(self.protocol), self.dtype]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return recovery_root() / f"{self.recipe.digest}-{digest[:12]}"


@dataclass(frozen=True)
class Standing:
    """What lies in the folder of a training.

    Attributes:
        steps: how many are kept; 0 where there is nothing.
        finished: whether it ended, by itself or because it was enough.
        trouble: why it cannot be gone on with, in words; empty where it can.
    """

    steps: int = 0
    finished: bool = False
    trouble: str = ""


def standing(folder: Path) -> Standing:
    """Return how far the training in a folder is."""
    if not folder.is_dir():
        return Standing()
    from pruning_core.recovery.folder import RecoveryFolder

    place = RecoveryFolder(folder)
    try:
        if place.finished:
            return Standing(int(place.record()["steps"]), finished=True)
        checkpoint = place.checkpoint()
        return Standing(int(checkpoint.state["curve"][-1][0])) if checkpoint else Standing()
    except PrunescopeError as error:
        return Standing(trouble=str(error))
    except (LookupError, TypeError, ValueError) as error:
        return Standing(trouble=f"What lies in {folder} is damaged ({error!r}).")


@dataclass(frozen=True, eq=False)
class Curve:
    """How far a training has come.

    Attributes:
        losses: step and loss, nats per learned token.
        perplexities: step and perplexity of the probe, where it is a finite number.
        steps: in all.
        dense: the perplexity of the dense model on the probe.
        pruned: that of the model before it was trained.
    """

    losses: tuple[tuple[int, float], ...]
    perplexities: tuple[tuple[int, float], ...]
    steps: int
    dense: float
    pruned: float


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training came to.

    Attributes:
        training: what was asked for.
        record: what its `recovery.json` says, with what was measured.
    """

    training: Training
    record: Mapping[str, Any]

    @property
    def mark(self) -> str:
        """Identifies what was learned."""
        mark: str = self.record["adapters"]
        return mark

    @property
    def regained(self) -> float | None:
        """The share of the loss added by pruning that is gone again, None where none was added."""
        share: float | None = self.record["measured"]["regained"]
        return share

    @property
    def curve(self) -> Curve:
        """How it went."""
        dense, pruned = self.perplexity("dense"), self.perplexity("pruned")
        return _curve(self.record["curve"], self.record["steps"], dense, pruned)

    def perplexity(self, name: str) -> float:
        """Return what was measured on the probe: ``dense``, ``pruned`` or ``recovered``."""
        found = self.record["measured"][name]["quality"]["perplexity"]
        return math.inf if found is None else float(found)  # JSON has no infinity


class Recoveries:
    """The trainings of one model.

    Attributes:
        results: what the last training of each recipe came to.
    """

    def __init__(self, loaded: LoadedModel, bench: Workbench) -> None:
        self.results: Recent[Recipe, Trained] = Recent(KEPT)
        self._plans: Recent[str, Plan] = Recent(KEPT_PLANS)
        self._loaded = loaded
        self._bench = bench

    def train(
        self,
        training: Training,
        probe: Probe,
        leaked: bool,
        demand_plan: Callable[[], Plan],
        tick: Tick,
        publish: Callable[[object], None],
    ) -> Trained:
        """Train, or go on with what lies in the folder, and measure before and after.

        Args:
            training: what is asked for.
            probe: what is measured on.
            leaked: whether it was calibrated on.
            demand_plan: returns the plan that is trained.
            tick: hears of everything; may end it early.
            publish: gets a `Curve` after every step.

        Raises:
            PrunescopeError: if the text cannot be used or overlaps with the probe, the model cannot
                be trained, or what lies in the folder cannot be gone on with.
            Cancelled: by `tick`; the last checkpoint stays.
        """
        from pruning_core.calibration import guard
        from pruning_core.recovery.folder import RecoveryFolder
        from pruning_core.recovery.lessons import read_lessons
        from pruning_core.recovery.training import recover
        from pruning_core.runs import recovery_as_dict

        settings, folder = training.settings, training.folder
        lessons = read_lessons(settings, self._loaded.tokenizer, tick)
        learned = guard(lessons.text, probe.read, allow=training.allow_leak)
        # Only now, when nothing speaks against it any more.
        if training.anew:
            _delete(folder)
        plan = demand_plan()
        dense = probe.evaluator.measure(None, tick)
        pruned = probe.evaluator.measure(plan, tick)
        steps = settings.steps_for(len(lessons.samples))
        points: list[list[float | None]] = []

        def heard(point: Point) -> None:
            points.append(point.as_list())
            publish(_curve(points, steps, dense.perplexity, pruned.perplexity))

        done = recover(
            self._bench,
            plan,
            lessons,
            settings,
            folder,
            probe=probe.windows,
            leaked=learned,
            pace=_pace(steps),
            resume=True,
            heard=heard,
            tick=tick,
        )
        recovered = probe.evaluator.measure(done.plan, tick)
        sides = {
            "dense": (dense, self._bench.anatomy.parameters),
            "pruned": (pruned, plan.parameters),
            "recovered": (recovered, done.plan.parameters),
        }
        measured = recovery_as_dict(training.protocol, probe.text, sides, leaked=leaked or learned)
        record = {**done.record, "measured": measured}
        RecoveryFolder(folder).note(record)
        trained = Trained(training, record)
        self._plans[trained.mark] = done.plan
        self.results[training.recipe] = trained
        return trained

    def merged(self, recipe: Recipe, mark: str, plan: Plan) -> tuple[Plan, Mapping[str, Any]]:
        """Return a plan with what was learned merged in, and the record of the training.

        Args:
            recipe: what was trained.
            mark: identifies what was learned.
            plan: of the recipe, without training.

        Raises:
            PrunescopeError: if it was trained in another way meanwhile, or its folder is gone.
        """
        from pruning_core.recovery.training import recovered

        trained = self.results.get(recipe)
        if trained is None or trained.mark != mark:
            raise PrunescopeError(
                "This recipe has been trained in another way meanwhile. Look at the Export page "
                "again, and export that, or train as before."
            )
        known = self._plans.get(mark)
        if known is None:
            known = recovered(self._bench, plan, trained.training.folder).plan
            self._plans[mark] = known
        return known, trained.record


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(folder, error) from error


def _pace(steps: int) -> Pace:
    """Return how often to measure and to save: a short training is watched and kept as well."""
    from pruning_core.recovery.training import Pace

    usual = Pace()
    often = max(steps // _OFTEN, 1)
    return Pace(min(usual.probe, often), min(usual.save, often))


def _curve(points: Any, steps: int, dense: float, pruned: float) -> Curve:
    """Return a curve from points as they stand in a record: step, loss, perplexity."""
    return Curve(
        tuple((step, loss) for step, loss, _ in points if loss is not None),
        tuple((step, found) for step, _, found in points if found is not None),
        steps,
        dense,
        pruned,
    )
