"""A training while it runs, live; and how one ended that came to nothing."""

from __future__ import annotations

import streamlit as st

from app import recovery_figures, state
from app.components.polling import polled
from app.engine import ENGINE, training_of
from app.recoveries import Curve
from pruning_core.jobs import Job, State
from pruning_core.recipe import Recipe

MINUTE = 60


def draw_running(*, busy: bool) -> None:
    """Draw how far a training of this tab is."""
    polled(_running, running=busy)()


def draw_curve(curve: Curve, key: str) -> None:
    """Draw how a training goes, or went."""
    figure = recovery_figures.training(
        curve.losses,
        curve.perplexities,
        steps=curve.steps,
        dense=curve.dense,
        pruned=curve.pruned,
    )
    st.plotly_chart(
        figure,
        key=key,
        config={"displayModeBar": False},
        alt="The perplexity of the probe between the pruned and the dense model's, and the loss, "
        "by step of training",
    )


def last_of(recipe: Recipe) -> Job[object] | None:
    """Return the last training that this tab asked for, if it was of a recipe."""
    jobs = [job for job in ENGINE.jobs.jobs(state.owner()) if job.kind == "recover"]
    return jobs[-1] if jobs and jobs[-1].title == training_of(recipe) else None


def draw_ending(recipe: Recipe) -> None:
    """Say beside the button, too, why the last training came to nothing."""
    job = last_of(recipe)
    if job is None:
        return
    if job.state is State.FAILED:
        st.error(f"**Not trained.** {job.error}", icon=":material/error:")
    elif job.state is State.CANCELLED:
        st.info(
            "The training was stopped. Its last checkpoint stays, if it came to one: the button "
            "says so.",
            icon=":material/stop_circle:",
        )


def _running() -> None:
    state.refresh()
    job = state.job("recover")
    if job is None or job.finished:
        return
    progress = job.progress
    share = progress.done / progress.total if progress.total else 0.0
    st.progress(min(share, 1.0), text=f"{job.title}: {_line(job)}")
    with st.container(horizontal=True):
        st.button(
            "Keeping…" if job.keeping else "Enough, keep it",
            key=f"enough-{job.id}",
            icon=":material/download_done:",
            on_click=job.enough,
            disabled=not job.can_keep or job.keeping,
            help="Ends the training after this step and uses what has been learned by then.",
        )
        st.button(
            "Stopping…" if job.cancelling else "Stop",
            key=f"stop-recover-{job.id}",
            icon=":material/stop_circle:",
            on_click=job.cancel,
            disabled=job.cancelling,
            help="The last checkpoint stays: the same settings go on from there.",
        )
    if isinstance(job.partial, Curve):
        draw_curve(job.partial, "recover-live")


def _line(job: Job[object]) -> str:
    if job.state is State.QUEUED:
        return f"waiting, place {ENGINE.jobs.position(job)} in the queue"
    progress = job.progress
    words = [progress.stage or "starting"]
    if progress.total > 1:
        words.append(f"{progress.done} of {progress.total}")
    words += [progress.note] if progress.note else []
    if job.can_keep and job.remaining is not None:
        words.append(_left(job.remaining))
    return " · ".join(words)


def _left(seconds: float) -> str:
    if seconds < MINUTE:
        return "less than a minute left"
    minutes = round(seconds / MINUTE)
    hours, rest = divmod(minutes, 60)
    return f"about {hours} h {rest} min left" if hours else f"about {minutes} min left"
