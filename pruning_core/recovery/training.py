"""The loop of a recovery: batches through a pruned model, steps of its adapters, a plan at the end.

Checkpoints are written on the way, and a run that was killed goes on from the last one to the same
numbers (see `course`). `Enough` ends a run early and keeps what was learned by then.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.perplexity import measure_windows
from pruning_core.model.forward import positions
from pruning_core.planning.plan import Plan
from pruning_core.planning.thinning import WeightPlan
from pruning_core.progress import Enough, Tick, silent
from pruning_core.recovery.adapters import adapted, digest_of
from pruning_core.recovery.course import Course
from pruning_core.recovery.folder import FORMAT, Checkpoint, RecoveryFolder
from pruning_core.recovery.lessons import Lessons
from pruning_core.recovery.settings import Settings
from pruning_core.recovery.teacher import twin_of
from pruning_core.surgery.workbench import Workbench

RECOVERING = "recovering"
"""The stage whose work knows `Enough`."""

_MOMENTS = "optimiser.safetensors"


@dataclass(frozen=True)
class Pace:
    """How often something besides training is done, in steps.

    Attributes:
        probe: the perplexity of the probe is measured.
        save: a checkpoint is written.
    """

    probe: int = 10
    save: int = 20

    def __post_init__(self) -> None:
        for name, steps in vars(self).items():
            if steps < 1:
                raise PrunescopeError(f"Every {steps} steps ({name}): it must be 1 or more.")


@dataclass(frozen=True)
class Point:
    """Where training stands.

    Attributes:
        step: how many steps are done.
        loss: of the last one, nats per learned token; None before the first.
        perplexity: of the probe, None where it was not measured after this step; no finite number
            where the model is wrecked.
    """

    step: int
    loss: float | None
    perplexity: float | None

    def as_list(self) -> list[float | None]:
        """Return plain values; JSON has no infinity."""
        told = self.perplexity
        return [self.step, self.loss, told if told is not None and math.isfinite(told) else None]


@dataclass(frozen=True)
class Recovered:
    """What a recovery came to.

    Attributes:
        plan: the plan with the trained matrices; apply it to get the model.
        record: what `recovery.json` says.
    """

    plan: Plan
    record: Mapping[str, Any]


def recover(
    bench: Workbench,
    plan: Plan,
    lessons: Lessons,
    settings: Settings,
    folder: Path,
    *,
    probe: torch.Tensor | None = None,
    leaked: bool = False,
    pace: Pace | None = None,
    resume: bool = False,
    heard: Callable[[Point], None] = lambda _point: None,
    tick: Tick = silent,
) -> Recovered:
    """Train adapters on a pruned model and return the plan with what they learned merged in.

    Args:
        bench: its model carries `plan` afterwards, without what was learned. If the work fails or
            is cancelled, the plan before comes back.
        plan: what has left the model.
        lessons: what is learned from.
        folder: where checkpoints and the result lie.
        probe: int64 [windows, tokens], text that is not trained on.
        leaked: whether it is, all the same; noted in the record.
        pace: how often to measure and to save.
        resume: go on from what lies in the folder; a finished recovery is returned as it is.
        heard: is told of every step, those before a checkpoint included, and of the probe before
            the first.
        tick: hears of every step; `Enough` keeps what has been learned by then.

    Raises:
        PrunescopeError: if the folder is in use or cannot be written, what lies there is of other
            settings, or the model cannot be trained.
        Cancelled: by `tick`; the last checkpoint stays.
    """
    place = RecoveryFolder(folder)
    place.demand(resume=resume)
    _demand_trainable(bench.model, settings)
    identity = _identity(bench, plan, lessons, settings)
    if place.finished:
        _demand_same(place.record(), identity, folder)
        return recovered(bench, plan, folder)
    checkpoint = place.checkpoint()
    if checkpoint is not None:
        _demand_same(checkpoint.state, identity, folder)
    with ExitStack() as around:
        teacher = None
        if settings.distill > 0:
            around.enter_context(bench.applied(None))
            teacher = twin_of(bench.model)
        around.enter_context(bench.applied(plan))
        adapters = around.enter_context(adapted(bench.model, plan, settings))
        course = Course(bench.model, adapters, lessons, settings, teacher)
        work = _Work(course, place, identity, probe, pace or Pace(), heard, tick)
        if checkpoint is not None:
            work.go_on_from(checkpoint)
        ended = work.run()
        record = work.finish({**identity, "leaked": leaked, "ended_early": ended}, plan)
        weights = adapters.merged()
    return Recovered(plan.with_weights(weights, record["adapters"]), record)


def recovered(bench: Workbench, plan: Plan, folder: Path) -> Recovered:
    """Return a plan with what a finished recovery learned merged in.

    Args:
        bench: as for `recover`.
        plan: of the recipe and the model that were trained.

    Raises:
        PrunescopeError: if there is none, it is damaged, or it is of another recipe, model or plan.
    """
    record = RecoveryFolder(folder).record()
    _demand_same(record, _origin(bench, plan), folder)
    settings = Settings.from_dict(record.get("settings"))
    if digest_of(folder, settings) != record.get("adapters"):
        raise PrunescopeError(
            f"The adapters in {folder} are not those that its record is of. Take a whole copy, or "
            "train again."
        )
    with bench.applied(plan), adapted(bench.model, plan, settings) as adapters:
        adapters.load(folder)
        weights = adapters.merged()
    return Recovered(plan.with_weights(weights, record["adapters"]), record)


class _Work:
    """A course being walked: what is told, measured and kept on the way."""

    def __init__(
        self,
        course: Course,
        place: RecoveryFolder,
        identity: Mapping[str, Any],
        probe: torch.Tensor | None,
        pace: Pace,
        heard: Callable[[Point], None],
        tick: Tick,
    ) -> None:
        self._course = course
        self._place = place
        self._identity = identity
        self._probe = probe
        self._pace = pace
        self._heard = heard
        self._tick = tick
        self._points: list[Point] = []
        self._seconds = 0.0

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """Take up the adapters, the moments and the curve of a checkpoint."""
        course, state = self._course, checkpoint.state
        course.adapters.load(checkpoint.folder)
        try:
            self._points = [Point(*point) for point in state["curve"]]
            self._seconds = float(state["seconds"])
            course.set_moments(load_file(checkpoint.folder / _MOMENTS), self._points[-1].step)
        except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
            raise PrunescopeError(
                f"The checkpoint {checkpoint.folder} is damaged ({error}). Delete it, or choose "
                "another folder, and train from the start."
            ) from error
        for point in self._points:
            self._heard(point)

    def run(self) -> bool:
        """Train to the end, or until it is enough; return whether that was early."""
        steps = self._course.steps
        started = time.perf_counter() - self._seconds
        if not self._points:
            self._tell(Point(0, None, self._perplexity()))
        done = self._points[-1].step
        try:
            while done < steps:
                loss = self._course.step(done, lambda: self._report(done))  # noqa: B023 - called at once
                done += 1
                measured = done == steps or done % self._pace.probe == 0
                self._tell(Point(done, loss, self._perplexity() if measured else None))
                self._seconds = time.perf_counter() - started
                if done % self._pace.save == 0 and done < steps:
                    self._save()
            self._report(done)
        except Enough:
            if not done:
                raise
        return done < steps

    def finish(self, known: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
        """Write the result and its record, and return the record."""
        record: dict[str, Any] = {}

        def complete() -> Mapping[str, Any]:
            record.update(
                format=FORMAT,
                **known,
                model=plan.recipe.model,
                steps=self._points[-1].step,
                of_steps=self._course.steps,
                masked=isinstance(plan, WeightPlan),
                trained_parameters=sum(
                    parameter.numel() for parameter in self._course.adapters.parameters.values()
                ),
                curve=[point.as_list() for point in self._points],
                seconds=self._seconds,
                adapters=digest_of(self._place.path, self._course.settings),
                versions={name: version(name) for name in ("torch", "transformers", "peft")},
            )
            return record

        self._place.finish(self._course.adapters.save, complete)
        return record

    def _tell(self, point: Point) -> None:
        self._points.append(point)
        self._heard(point)

    def _report(self, done: int) -> None:
        last = self._points[-1]
        measured = [p.perplexity for p in self._points if p.perplexity is not None]
        told = [] if last.loss is None else [f"loss {last.loss:.3f}"]
        told += [f"perplexity {measured[-1]:.2f}"] if measured else []
        self._tick(RECOVERING, done, self._course.steps, ", ".join(told))

    def _perplexity(self) -> float | None:
        if self._probe is None:
            return None
        return measure_windows(self._course.model, self._probe).perplexity

    def _save(self) -> None:
        course = self._course
        state = {
            **self._identity,
            "curve": [point.as_list() for point in self._points],
            "seconds": self._seconds,
        }

        def write(folder: Path) -> None:
            course.adapters.save(folder)
            save_file(course.moments(), folder / _MOMENTS)

        self._place.keep(self._points[-1].step, state, write)


def _demand_trainable(model: PreTrainedModel, settings: Settings) -> None:
    if model.dtype == torch.float16:
        raise PrunescopeError(
            "A model in float16 can't be trained here: its gradients are too small for that "
            "format. Load it in bfloat16 or float32 (--dtype)."
        )
    most = positions(model)
    if most is not None and settings.length > most:
        raise PrunescopeError(
            f"Samples of {settings.length} tokens are longer than this model allows: it has "
            f"{most:,} positions. Choose shorter ones (--length)."
        )


def _origin(bench: Workbench, plan: Plan) -> dict[str, Any]:
    """Return what a recovery must be of to be merged into a plan."""
    content = hashlib.sha256()
    for key, signature in sorted(plan.signatures.items()):
        content.update(f"{key} {signature}\n".encode())
    return {
        "fingerprint": plan.recipe.fingerprint,
        "recipe": plan.recipe.digest,
        "dtype": str(bench.model.dtype).removeprefix("torch."),
        "plan": content.hexdigest(),
    }


def _identity(bench: Workbench, plan: Plan, lessons: Lessons, settings: Settings) -> dict[str, Any]:
    """Return all that decides what a recovery comes to."""
    return {
        **_origin(bench, plan),
        "settings": settings.as_dict(),
        "text": {
            "source": lessons.text.source,
            "sha256": lessons.text.sha256,
            "samples": len(lessons.samples),
        },
    }


_OTHER = {
    "fingerprint": "another model",
    "recipe": "another recipe",
    "dtype": "another number format",
    "plan": "another choice of what leaves",
    "settings": "other settings",
    "text": "another text",
}


def _demand_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Refuse a recovery that is not of what is asked for."""
    for name, value in wanted.items():
        had = found.get(name)
        if had == value:
            continue
        if name == "settings" and isinstance(had, Mapping):
            names = sorted(key for key in value if had.get(key) != value[key])
            had, value = ({key: side.get(key) for key in names} for side in (had, value))
        cure = f"load the model with --dtype {had}, " if name == "dtype" else ""
        raise PrunescopeError(
            f"The recovery in {folder} is of {_OTHER[name]} ({had}; here it is {value}). Choose "
            f"the folder that goes with this one, {cure}or train again in another."
        )
