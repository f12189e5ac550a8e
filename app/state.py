"""What one browser tab remembers. The only module that touches `st.session_state`.

The truth is a frozen `Recipe`; widgets are drawn from it and hand their values back through
callbacks. Widget state would be dropped on every change of page, a recipe here is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import streamlit as st

from app.engine import ENGINE
from app.results import Answers, Measured, OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.jobs import Job, State
from pruning_core.recipe import Calibration, PatternKind, Recipe, Scalar, Scoring, SiteKey

UNDO_DEPTH = 200

_NOTHING = object()


@dataclass
class _History:
    """The recipes of one model, the present one last among those that are done."""

    done: list[Recipe]
    undone: list[Recipe] = field(default_factory=list)


@dataclass
class _Tab:
    """Everything of one tab."""

    owner: str = field(default_factory=lambda: uuid4().hex)
    histories: dict[str, _History] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    settings: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    jobs: dict[str, Job[Any]] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    shown: dict[str, object] = field(default_factory=dict)
    measured: Measured | None = None
    answers: Answers | None = None
    prompt: str = "A decorator in Python is"
    probe: str = "probe"
    shape: str = "uniform"
    fusion: str = "hybrid"
    waiting: float | None = None
    instruments: tuple[str, ...] = ("fine", "coarse", "magnitude")
    compared_at: int = 20
    compared_seeds: int = 1
    compared: tuple[Measured, ...] = ()
    uploads: int = 0
    layer: int = 0
    requested: object = None
    allow_leak: bool = False
    autoloaded: bool = False
    drawing: bool = False
    stale: bool = False
    checked: str | None = None
    notice: str | None = None


def _tab() -> _Tab:
    if "tab" not in st.session_state:
        st.session_state["tab"] = _Tab()
    tab: _Tab = st.session_state["tab"]
    return tab


def owner() -> str:
    """Return this tab's own id."""
    return _tab().owner


def control(name: str, value: object) -> str:
    """Return the key under which a widget shows a value.

    A widget that shows something else than it should (after an undo, a preset, a snap) is replaced
    by a new one, never written to: the browser would send the old value along with whatever the
    user does next, and that would count as a move of this widget.
    """
    tab = _tab()
    if st.session_state.get(_key(name), _NOTHING) != value:
        tab.revisions[name] = tab.revisions.get(name, 0) + 1
        st.session_state[_key(name)] = value
    tab.shown[name] = value
    return _key(name)


def moving(name: str, take: Callable[[Any], None]) -> Callable[[], None]:
    """Return a callback that hands `take` the value to which the user has moved a widget.

    The browser confirms the value that a new widget was given as if the user had chosen it.
    """

    def moved() -> None:
        value = st.session_state[_key(name)]
        if value != _tab().shown[name]:
            take(value)

    return moved


def upload_key() -> str:
    """Return the key of the present file uploader."""
    return f"upload#{_tab().uploads}"


def uploading(take: Callable[[bytes], None]) -> Callable[[], None]:
    """Return a callback that hands `take` what was uploaded; the next uploader is an empty one."""

    def uploaded() -> None:
        file = st.session_state[upload_key()]
        if file is not None:
            _tab().uploads += 1
            take(file.getvalue())

    return uploaded


def _key(name: str) -> str:
    return f"{name}#{_tab().revisions.get(name, 0)}"


# The recipe and its history.


def recipe(model: OnBench) -> Recipe:
    """Return the recipe that this tab works on for a model."""
    return _history(model).done[-1]


def change(model: OnBench, new: Recipe) -> None:
    """Make another recipe the present one; undo leads back."""
    history = _history(model)
    if new == history.done[-1]:
        return
    history.done.append(new)
    history.undone.clear()
    del history.done[:-UNDO_DEPTH]


def follow_maps(model: OnBench) -> None:
    """Let the recipe use the maps this tab has made.

    A recipe keeps its calibration; when that was never scored and the tab's present one was, the
    latter is what the person means. A fusion that was learned ranks a recipe nothing was done to.
    """
    history = _history(model)
    present = history.done[-1]
    if present.pattern.kind is not PatternKind.STRUCTURED:
        return
    untouched = len(history.done) == 1 and not present.sparsity
    names = ["hybrid"] if untouched else []
    for name in (*names, present.scoring.estimator):
        made = scoring(name)
        wanted = name != present.scoring.estimator or not ENGINE.map(
            model.fingerprint, present.scoring
        )
        if wanted and ENGINE.map(model.fingerprint, made):
            history.done[-1] = replace(present, scoring=made)
            return


def change_sparsity(model: OnBench, sparsity: Mapping[SiteKey, float]) -> None:
    """Change the sparsity of some sites."""
    change(model, recipe(model).with_sparsity(sparsity))


def toggle_lock(model: OnBench, site: SiteKey) -> None:
    """Lock a site, or unlock it."""
    present = recipe(model)
    change(model, replace(present, locks=present.locks ^ {site}))


def undo(model: OnBench) -> None:
    """Go back to the recipe before."""
    history = _history(model)
    if len(history.done) > 1:
        history.undone.append(history.done.pop())


def redo(model: OnBench) -> None:
    """Take back an undo."""
    history = _history(model)
    if history.undone:
        history.done.append(history.undone.pop())


def can_undo(model: OnBench) -> bool:
    """Whether there is a recipe before."""
    return len(_history(model).done) > 1


def can_redo(model: OnBench) -> bool:
    """Whether there is an undone recipe."""
    return bool(_history(model).undone)


def _history(model: OnBench) -> _History:
    histories = _tab().histories
    if model.fingerprint not in histories:
        first = Recipe(model.ref, model.fingerprint, Scoring("fine", (), calibration()))
        histories[model.fingerprint] = _History([first])
    return histories[model.fingerprint]


# How importance is estimated.


def calibration() -> Calibration:
    """Return the calibration that this tab scores on."""
    return _tab().calibration


def set_calibration(new: Calibration) -> None:
    """Choose another calibration."""
    _tab().calibration = new


def scoring(estimator: str) -> Scoring:
    """Return how this tab runs an estimator: its settings, on the tab's calibration."""
    from pruning_core.importance.registry import estimator as find

    canonical = find(estimator).canonical(_tab().settings.get(estimator, {}))
    return Scoring(estimator, canonical, calibration())


def set_setting(estimator: str, name: str, value: Scalar) -> None:
    """Change one parameter of an estimator."""
    _tab().settings.setdefault(estimator, {})[name] = value


# Jobs and what came of them.


def submit(ask: Callable[[], Job[Any]]) -> None:
    """Ask the engine for a job and follow it: it shows in the sidebar until it ends.

    A refusal (the queue is full) is shown like any other failure.
    """
    dismiss()
    try:
        job = ask()
    except PrunescopeError as error:
        warn(str(error))
    else:
        _tab().jobs[job.kind] = job


def job(kind: str) -> Job[Any] | None:
    """Return the latest job of a kind that this tab started."""
    return _tab().jobs.get(kind)


def active_jobs() -> list[Job[Any]]:
    """Return this tab's jobs that have not ended, oldest first."""
    return [job for job in _tab().jobs.values() if not job.finished]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw a whole page, with all that jobs have brought by now."""
    tab = _tab()
    _collect()
    tab.drawing, tab.stale = True, False
    try:
        yield
    finally:
        tab.drawing = False


def refresh() -> None:
    """Take over what jobs have brought, and draw the page anew if anything ended; for fragments.

    While the page is being drawn that has to wait for the fragment's next turn: to begin again
    would lose the click that it is drawn for.
    """
    tab = _tab()
    tab.stale = _collect() or tab.stale
    if tab.stale and not tab.drawing:
        tab.stale = False
        st.rerun()


def _collect() -> bool:
    """Take over what jobs have brought since the last time; return whether anything ended."""
    tab = _tab()
    ended = False
    for kind, found in list(tab.jobs.items()):
        brought = found.result if found.state is State.DONE else found.partial
        if isinstance(brought, Measured):
            tab.measured = brought
        if isinstance(brought, tuple):
            tab.compared = brought
        if isinstance(brought, Answers):
            tab.answers = brought
        if isinstance(brought, str):
            tab.checked = brought
        if found.finished:
            ended = True
            del tab.jobs[kind]
            if isinstance(brought, dict):
                _take_scorings(brought)
            if found.state is State.FAILED:
                tab.notice = found.error
    return ended


def _take_scorings(made: Mapping[Scoring, Scoring]) -> None:
    """Let the settings and the recipes that asked for a scoring name the one carried out."""
    tab = _tab()
    for asked, done in made.items():
        if scoring(asked.estimator) == asked:
            tab.settings[asked.estimator] = dict(done.params)
        for fingerprint, history in tab.histories.items():
            present = history.done[-1]
            if present.scoring == asked and ENGINE.map(fingerprint, done):
                history.done[-1] = replace(present, scoring=done)


def measured() -> Measured | None:
    """Return the latest measurement of this tab."""
    return _tab().measured


def compared() -> tuple[Measured, ...]:
    """Return the latest comparison of this tab."""
    return _tab().compared


def answers() -> Answers | None:
    """Return the latest answers of this tab."""
    return _tab().answers


def checked() -> str | None:
    """Return what the latest memory check said."""
    return _tab().checked


def notice() -> str | None:
    """Return what went wrong last; it stays until it is dismissed or new work is started."""
    return _tab().notice


def dismiss() -> None:
    """Put the notice away."""
    _tab().notice = None


def warn(sentence: str) -> None:
    """Show a sentence at the top of the page that comes next."""
    _tab().notice = sentence


# Small choices.


def remember(name: str, value: object) -> None:
    """Keep a choice of the tab: ``prompt``, ``probe``, ``layer`` and the like."""
    setattr(_tab(), name, value)


def choice(name: str) -> Any:
    """Return a choice kept by `remember`."""
    return getattr(_tab(), name)


def keep(choice: str, widget: str) -> Callable[[], None]:
    """Return a callback that keeps a widget's value as a choice."""
    return moving(widget, lambda value: remember(choice, value))


def take_layer(chart: str) -> None:
    """Keep the layer that was clicked on a chart; for callbacks."""
    points = st.session_state[chart].selection.points
    if points:
        remember("layer", int(points[0]["x"]))


def autoload() -> None:
    """Ask once for the demo if there is nothing on the bench; who comes first decides what is."""
    tab = _tab()
    if ENGINE.model is None and not tab.autoloaded:
        tab.autoloaded = True
        submit(lambda: ENGINE.load_first(tab.owner))
