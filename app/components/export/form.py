"""Which format, where to, with which numbers: the form that starts an export, and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.export.place import Place, default_name, default_parent, place_of
from app.components.polling import polled
from app.engine import ENGINE
from app.exports import Order
from app.recoveries import Trained
from app.results import OnBench
from app.words import perplexity
from pruning_core.errors import PrunescopeError
from pruning_core.history import SavedRun
from pruning_core.jobs import State
from pruning_core.recipe import Recipe

if TYPE_CHECKING:
    from pruning_core.export.format import Preflight

STAGES = {
    "writing": "Writing the files",
    "proving": "Proving: a fresh process without Prunescope opens them and computes",
}


def draw_form(
    model: OnBench, recipe: Recipe, trained: Trained | None, formats: Sequence[Preflight]
) -> None:
    """Draw the choices and the button, and how far an export is.

    Args:
        model: on the bench.
        recipe: what is pruned.
        trained: the training that followed and goes along, None for the plan as it was cut.
        formats: what each would do.
    """
    possible = [found.format for found in formats if found.possible]
    if not possible:
        st.info("No format can hold this plan.", icon=":material/block:")
        return
    with st.container(border=True):
        format = st.segmented_control(
            "Format",
            possible,
            default=possible[0],
            key=f"export-format-{'-'.join(possible)}",
            required=True,
            persist_state="session",
        )
        left, right = st.columns(2)
        parent = left.text_input(
            "In the folder",
            default_parent(),
            key="export-parent",
            persist_state="session",
            help="On the machine that Prunescope runs on; it is made if it is not there. ~ is your "
            "own folder.",
        )
        name = right.text_input(
            "Under the name",
            default_name(recipe, format, trained=trained is not None),
            key=f"export-name-{recipe.digest}-{format}{'-trained' if trained else ''}",
            persist_state="session",
        )
        run = run_for_card(model, recipe)
        st.caption(_card_words(run, trained))
        try:
            place = place_of(parent or "", name or "", _source(model))
        except PrunescopeError as error:
            st.warning(str(error), icon=":material/folder_off:")
            place = None
        replace = _draw_replacing(place) if place else False
        _draw_button(recipe, trained, format, place, replace, run)
        busy = state.job("export") is not None
        polled(_progress, running=busy)()
        if not busy:
            _draw_failure()


def run_for_card(model: OnBench, recipe: Recipe) -> SavedRun | None:
    """Return the saved run whose numbers go into the model card: of this recipe, measured here.

    If there are several, one under this tab's protocol goes first, and then the newest.
    """
    here = (model.device, model.dtype)
    try:
        runs = ENGINE.history.runs(model.fingerprint)
    except PrunescopeError:
        return None  # the Runs page says why
    alike = [
        run
        for run in runs
        if run.recipe == recipe and (run.conditions.device, run.conditions.dtype) == here
    ]
    usual = [run for run in alike if run.conditions.protocol == state.choice("probe")]
    return next(reversed(usual or alike), None)


def _card_words(run: SavedRun | None, trained: Trained | None) -> str:
    if trained is not None:
        before = f", and before it those of {run.label}" if run else ""
        leak = trained.record["measured"]["leaked"]
        return (
            "The model card will say how it was trained and have the numbers after that: "
            f"perplexity {perplexity(trained.perplexity('recovered'))}, dense "
            f"{perplexity(trained.perplexity('dense'))}, {trained.training.protocol.title}{before}."
            f"{' It will say that the texts overlap.' if leak else ''}"
        )
    if run is None:
        return (
            "The model card will have no numbers: this recipe has not been measured here yet. "
            "Measure it on the Tune page first if it is to have some."
        )
    leak = " It will say that calibration and measurement text overlap." if run.leaked else ""
    return (
        f"The model card will have the numbers of {run.label}: perplexity "
        f"{perplexity(run.perplexity)}, dense {perplexity(run.dense_perplexity)}, "
        f"{run.conditions.title}.{leak}"
    )


def _source(model: OnBench) -> Path | None:
    exports = ENGINE.exports(model.fingerprint)
    return exports.source if exports else None


def _draw_replacing(place: Place) -> bool:
    """Draw the question whether what lies there may be replaced, if something does."""
    if not place.replaces:
        return False
    return st.checkbox(
        f"Replace {place.replaces} at {place.folder}",
        key=f"export-replace-{place.folder}",
        help="The old one goes only once the new one is written and proven.",
    )


def _draw_button(
    recipe: Recipe,
    trained: Trained | None,
    format: str,
    place: Place | None,
    replace: bool,
    run: SavedRun | None,
) -> None:
    ready = place is not None and (replace or not place.replaces)
    busy = state.job("export") is not None
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Export and prove",
            type="primary",
            icon=":material/output:",
            key="export",
            disabled=busy or not ready,
        )
        if place is not None:
            st.caption(f"Becomes `{place.folder}`")
    # Not in a callback, which would have what the fields held when they were last drawn.
    if pressed and place is not None and not busy:
        mark = trained.mark if trained else None
        order = Order(recipe, format, place.folder, replace, run.id if run else None, mark)
        state.submit(lambda: ENGINE.export(state.owner(), order))
        st.rerun()


def _progress() -> None:
    state.refresh()
    job = state.job("export")
    if job is None or job.finished:
        return
    progress = job.progress
    words = STAGES.get(progress.stage, progress.stage or "Starting")
    if job.state is State.QUEUED:
        words = f"Waiting, place {ENGINE.jobs.position(job)} in the queue"
    elif progress.total > 1:
        words += f" · {progress.done} of {progress.total} tensors"
    elif progress.note:
        words += f" · {progress.note}"
    share = progress.done / progress.total if progress.total else 0.0
    st.progress(1.0 if progress.stage == "proving" else min(share, 1.0), text=words)
    st.button(
        "Stopping…" if job.cancelling else "Stop the export",
        key=f"stop-export-{job.id}",
        icon=":material/stop_circle:",
        on_click=job.cancel,
        disabled=job.cancelling,
        help="Nothing half-written stays behind.",
    )


def _draw_failure() -> None:
    """Say beside the button, too, why this tab's last export came to nothing."""
    jobs = [job for job in ENGINE.jobs.jobs(state.owner()) if job.kind == "export"]
    if jobs and jobs[-1].state is State.FAILED:
        st.error(f"**Not exported.** {jobs[-1].error}", icon=":material/error:")
    elif jobs and jobs[-1].state is State.CANCELLED:
        st.info("The export was stopped: nothing of it was kept.", icon=":material/stop_circle:")
