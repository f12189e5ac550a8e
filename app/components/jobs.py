"""The sidebar's job panel: what is running, how far it is, how long is left, and ways to stop."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.polling import polled
from app.engine import ENGINE
from pruning_core.jobs import Job, State


def job_panel() -> None:
    """Draw the panel; it refreshes itself while something is running and the page when it ends."""
    polled(_panel, running=bool(state.active_jobs()))()


def _panel() -> None:
    state.refresh()
    for job in state.active_jobs():
        _draw(job)


def _draw(job: Job[object]) -> None:
    with st.container(border=True):
        st.markdown(f"**{job.title}**")
        if job.state is State.QUEUED:
            st.caption(f"Waiting, place {ENGINE.jobs.position(job)} in the queue")
        else:
            progress = job.progress
            share = progress.done / progress.total if progress.total else 0.0
            st.progress(min(share, 1.0), text=_line(job))
        if job.can_keep or job.keeping:
            st.button(
                "Keeping…" if job.keeping else "Keep what is learned",
                key=f"keep-{job.id}",
                on_click=job.enough,
                disabled=job.keeping or job.cancelling,
                icon=":material/download_done:",
                help="Ends the learning after this step and uses what was learned by then. "
                "When another tab waits for the same, once it has been pressed there too.",
                width="stretch",
            )
        label = "Stopping…" if job.cancelling else "Stop"
        st.button(
            label,
            key=f"stop-{job.id}",
            on_click=job.cancel,
            disabled=job.cancelling,
            icon=":material/stop_circle:",
            width="stretch",
        )


def _line(job: Job[object]) -> str:
    progress = job.progress
    words = [progress.stage or "starting"]
    if progress.total > 1:
        words.append(f"{progress.done}/{progress.total}")
    if progress.note:
        words.append(progress.note)
    # A pace measured on a few uneven steps predicts nothing.
    if progress.total >= 8 and job.remaining is not None and job.remaining > 2:
        words.append(f"{_duration(job.remaining)} left")
    return " · ".join(words)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
