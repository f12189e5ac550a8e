"""Tasks that are asked of a run: what is wanted, how it is done, and where the rows are.

Some are asked of a saved run, others, a few items, of what the tuner has just measured. The answers
are kept with the run. Pages look at what is here at any time; what touches the model, `ask_next`
and `follow`, runs on the engine's one worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from app.results import Measured, OnBench, Sample
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.history import History, SavedRun
from pruning_core.progress import Tick

if TYPE_CHECKING:
    from app.workplace import Workplace


@dataclass(frozen=True)
class Questions:
    """Items to be asked of the dense model and of what a saved run's recipe makes of it.

    Attributes:
        fingerprint: of the model's weights.
        run: the id of the saved run.
        tasks: names of the tasks, in the order in which they are asked.
        limit: at most so many items of each task; None for all.
        seed: of the sample that is drawn; None takes the first.
        allow_leak: ask items that the recipe was calibrated on too, and mark the answers.
    """

    fingerprint: str
    run: str
    tasks: tuple[str, ...]
    limit: int | None
    seed: int | None
    allow_leak: bool


@dataclass(frozen=True)
class Asked:
    """How far the asking is.

    Attributes:
        questions: what is wanted.
        kept: the tasks whose answers are with the run, by name.
        failed: the tasks that could not be asked, by name, and why.
    """

    questions: Questions
    kept: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def left(self) -> tuple[str, ...]:
        """The tasks whose turn is still to come."""
        return self.questions.tasks[len(self.kept) + len(self.failed) :]

    def keeping(self, task: str) -> Asked:
        """Return it with one more task that was kept."""
        return replace(self, kept=(*self.kept, task))

    def failing(self, task: str, why: str) -> Asked:
        """Return it with one more task that could not be asked."""
        return replace(self, failed=(*self.failed, (task, why)))

    def counted(self, tick: Tick) -> Tick:
        """Return a tick that also tells which of several tasks it is about."""
        of = len(self.questions.tasks)
        place = f"task {of - len(self.left) + 1} of {of}"

        def counting(stage: str, done: int, total: int, note: str = "") -> None:
            tick(stage, done, total, f"{note}, {place}" if note else place)

        return counting if of > 1 else tick


def ask_next(current: Workplace, history: History, asked: Asked, tick: Tick) -> Asked:
    """Ask the next task and keep its answers with the run; what was answered before stays so.

    Args:
        current: holds the model.
        history: holds the run.
        asked: how far it is; at least one task is left.
        tick: hears of every item.

    Returns:
        How far it is then: a task that cannot be asked is told in it and does not stop the rest.

    Raises:
        PrunescopeError: if the run is gone, the model is loaded otherwise than when the run was
            measured, its recipe cannot be carried out, or the answers cannot be written.
        Cancelled: by `tick`; the items that are answered by then are not asked again.
    """
    questions, task = asked.questions, asked.left[0]
    run = history.find(questions.fingerprint, questions.run)
    if run is None:
        raise PrunescopeError(
            "The run has been deleted or damaged meanwhile, perhaps in another tab. Its tasks are "
            "asked no further; measure its recipe anew to ask them of that."
        )
    if why := elsewhere(run, current.seen):
        raise PrunescopeError(why)
    tick = asked.counted(tick)
    plan = current.demand_anew(run.recipe, tick)
    try:
        found = current.ask(plan, task, questions, tick)
    except PrunescopeError as error:
        return asked.failing(task, str(error))
    history.ask(run, {task: found})
    return asked.keeping(task)


def follow(
    current: Workplace,
    history: History,
    measured: Measured,
    sample: Sample,
    *,
    allow_leak: bool,
    tick: Tick,
) -> Measured:
    """Ask a few items of what was measured, and return it with the answers, or why there are none.

    They are kept with its run, unless more items of the task were asked of that before.

    Raises:
        Cancelled: by `tick`.
    """
    recipe = measured.recipe
    measured = replace(measured, sample=sample)
    try:
        found = current.follow(recipe, sample, allow_leak=allow_leak, tick=tick)
    except PrunescopeError as error:
        return replace(measured, unasked=str(error))
    measured = replace(measured, answers=found)
    try:
        run = history.find(recipe.fingerprint, measured.saved) if measured.saved else None
        if run and run.tasks.get(sample.task, {}).get("items", 0) <= found["items"]:
            history.ask(run, {sample.task: found})
    except PrunescopeError as error:
        return replace(measured, unsaved=str(error))
    return measured


def elsewhere(run: SavedRun, model: OnBench) -> str:
    """Return why a run's tasks cannot be asked of the model as it is loaded; empty where they can.

    A run keeps numbers of one device and one number format only.
    """
    measured = (run.conditions.dtype, run.conditions.device)
    if measured == (model.dtype, model.device):
        return ""
    return (
        f"{run.label} was measured in {measured[0]} on {measured[1]}, and the model is loaded in "
        f"{model.dtype} on {model.device}: answers of the two can't stand side by side. Load it "
        "as it was on the Model page, or measure the recipe anew."
    )


class Supply(NamedTuple):
    """Where the rows of tasks come from.

    Attributes:
        folder: that of this machine, None for the hub.
        there: names of the tasks that can be asked.
        missing: names of the tasks whose files are not in the folder.
    """

    folder: Path | None
    there: tuple[str, ...]
    missing: tuple[str, ...]


def supply() -> Supply:
    """Look which tasks have their files here; nothing is read.

    Raises:
        PrunescopeError: if a folder for data is named and does not exist.
    """
    from pruning_core.calibration.local import data_folder
    from pruning_core.evaluation.tasks.documents import local_files

    folder = data_folder()
    there = [
        task.name
        for task in TASKS.values()
        if folder is None or all(map(Path.is_file, local_files(task, folder)))
    ]
    return Supply(folder, tuple(there), tuple(name for name in TASKS if name not in there))
