"""What one browser tab remembers. The only module that touches `st.session_state`.

The truth is a frozen `Recipe`; widgets are drawn from it and hand their values back through
callbacks. Widget state would be dropped on every change of page, a recipe here is not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import streamlit as st

from app.engine import ENGINE
from app.results import Answers, Measured, OnBench
from app.tab import Tab
from app.undo import Undo
from pruning_core.errors import PrunescopeError
from pruning_core.history import SavedRun
from pruning_core.jobs import Job, State
from pruning_core.recipe import Calibration, PatternKind, Recipe, Scalar, Scoring, SiteKey

_NOTHING = object()


def _tab() -> Tab:
    if "tab" not in st.session_state:
        st.session_state["tab"] = Tab()
    tab: Tab = st.session_state["tab"]
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
    return _history(model).present


def change(model: OnBench, new: Recipe) -> None:
    """Make another recipe the present one; undo leads back."""
    _history(model).change(new)


def follow_maps(model: OnBench) -> None:
    """Let the recipe use the maps this tab has made.

    A recipe keeps its calibration; when that was never scored and the tab's present one was, the
    latter is what the person means. A fusion that was learned ranks a recipe nothing was done to.
    """
    history = _history(model)
    present = history.present
    if present.pattern.kind is not PatternKind.STRUCTURED:
        return
    untouched = not history.can_undo and not present.sparsity
    names = ["hybrid"] if untouched else []
    for name in (*names, present.scoring.estimator):
        made = scoring(name)
        wanted = name != present.scoring.estimator or not ENGINE.map(
            model.fingerprint, present.scoring
        )
        if wanted and ENGINE.map(model.fingerprint, made):
            history.replace(replace(present, scoring=made))
            return


def change_sparsity(model: OnBench, sparsity: Mapping[SiteKey, float]) -> None:
    """Change the sparsity of some sites."""
    change(model, recipe(model).with_sparsity(sparsity))


def set_lock(model: OnBench, site: SiteKey, locked: bool) -> None:
    """Lock a site, or unlock it."""
    present = recipe(model)
    others = present.locks - {site}
    change(model, replace(present, locks=others | {site} if locked else others))


def undo(model: OnBench, drawn: Recipe) -> None:
    """Go back to the recipe before the one that was on screen.

    Once only: a browser tells of a click anew with every fragment that polls before the click's own
    message has left.
    """
    if recipe(model) == drawn:
        _history(model).undo()


def redo(model: OnBench, drawn: Recipe) -> None:
    """Take back an undo, once only for one recipe on screen; see `undo`."""
    if recipe(model) == drawn:
        _history(model).redo()


def take_stroke(
    model: OnBench, sparsity: Mapping[SiteKey, float], toggled: Collection[SiteKey]
) -> None:
    """Change sparsities and flip locks in one step, as one stroke of the drag editor did."""
    present = recipe(model)
    changed = present.with_sparsity(sparsity)
    change(model, replace(changed, locks=present.locks ^ frozenset(toggled)))
    _tab().draft = None


def draft(model: OnBench) -> Recipe | None:
    """Return the recipe under the pointer, while one is being dragged."""
    moved = _tab().draft
    return None if moved is None else recipe(model).with_sparsity(moved)


def set_draft(moved: Mapping[SiteKey, float]) -> None:
    """Remember what is being dragged; nothing is changed before the pointer is let go."""
    _tab().draft = moved


def can_undo(model: OnBench) -> bool:
    """Whether there is a recipe before."""
    return _history(model).can_undo


def can_redo(model: OnBench) -> bool:
    """Whether there is an undone recipe."""
    return _history(model).can_redo


def current_run() -> str | None:
    """Return the id of the saved run that this tab works from, on the model that is loaded."""
    model = ENGINE.model
    return _tab().runs.get(model.fingerprint) if model else None


def work_from(model: OnBench, run: str | None) -> None:
    """Let what is measured next come of a saved run, by its id; None begins a new tree."""
    if run is None:
        _tab().runs.pop(model.fingerprint, None)
    else:
        _tab().runs[model.fingerprint] = run


def restore_run(model: OnBench, saved: SavedRun) -> None:
    """Make the recipe of a saved run the present one, and work from that run; undo leads back."""
    change(model, saved.recipe)
    work_from(model, saved.id)


def _history(model: OnBench) -> Undo:
    histories = _tab().histories
    if model.fingerprint not in histories:
        first = Recipe(model.ref, model.fingerprint, Scoring("fine", (), calibration()))
        histories[model.fingerprint] = Undo([first])
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

    A refusal (the queue is full) is shown like any other failure. What was told since the page was
    last drawn stays: nobody has read it yet.
    """
    if not _tab().told:
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
    tab.drawing, tab.stale, tab.draft = True, False, None
    try:
        yield
    finally:
        tab.drawing = tab.told = False


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
            _follow(brought)
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


def _follow(measured: Measured) -> None:
    """Work from the run that was saved of a measurement, or say why none was."""
    tab = _tab()
    if measured.saved is not None:
        tab.runs[measured.recipe.fingerprint] = measured.saved
    if measured.unsaved is not None:
        tab.notice = f"Not all that is on screen could be saved. {measured.unsaved}"
    if measured.unasked is not None:
        tab.notice = f"The task was not asked. {measured.unasked}"


def _take_scorings(made: Mapping[Scoring, Scoring]) -> None:
    """Let the settings and the recipes that asked for a scoring name the one carried out."""
    tab = _tab()
    for asked, done in made.items():
        if scoring(asked.estimator) == asked:
            tab.settings[asked.estimator] = dict(done.params)
        for fingerprint, history in tab.histories.items():
            present = history.present
            if present.scoring == asked and ENGINE.map(fingerprint, done):
                history.replace(replace(present, scoring=done))


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
    _tab().notice, _tab().told = sentence, True


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


def take_run(chart: str) -> None:
    """Keep the run that was clicked on a chart; for callbacks."""
    points = st.session_state[chart].selection.points
    if points and (run := points[0].get("customdata")):  # the dense model is a point, and no run
        remember("picked", run)


def component_value(key: str) -> object:
    """Return what a component's JavaScript has sent last, as it came; None before the first."""
    return st.session_state.get(key)


def autoload() -> None:
    """Ask once for the demo if there is nothing on the bench; who comes first decides what is."""
    tab = _tab()
    if ENGINE.model is None and not tab.autoloaded:
        tab.autoloaded = True
        submit(lambda: ENGINE.load_first(tab.owner))
