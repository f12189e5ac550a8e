"""What every export format would do with a candidate, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.polling import polled
from app.engine import ENGINE, looking_at
from app.exports import Candidate
from app.results import OnBench
from app.words import change, size

if TYPE_CHECKING:
    from pruning_core.export.format import Preflight


def formats_of(model: OnBench, candidate: Candidate) -> tuple[Preflight, ...] | None:
    """Return what the formats would do with a candidate, if that has been found out."""
    exports = ENGINE.exports(model.fingerprint)
    return None if exports is None else exports.formats.get(candidate)


def find_formats(candidate: Candidate) -> None:
    """Draw how far finding out is; it begins by itself where the plan is there, but only once."""
    running = state.job("formats")
    if running is None and ENGINE.plan(candidate[0]) is not None and not _asked(candidate):
        _look(candidate)
        running = state.job("formats")
    if running is None:
        _ask(candidate)
    polled(_waiting, running=running is not None)()


def draw_formats(formats: Sequence[Preflight]) -> None:
    """Draw a card for every format, those that cannot hold the plan too."""
    for found in formats:
        with st.container(border=True, key=f"format-{found.format}"):
            name, weights, about = st.columns([4, 3, 8], gap="medium")
            with name:
                mark = ":green-badge[:material/check: fits]" if found.possible else ""
                mark = mark or ":gray-badge[:material/block: cannot hold this plan]"
                st.markdown(f"**{found.format}** {mark}")
                st.caption(_capital(found.title))
            with weights:
                _draw_size(found)
            with about:
                if found.possible:
                    st.markdown(f"Opens in {', '.join(found.opens)}.")
                    for note in found.notes:
                        st.caption(note)
                else:
                    st.markdown(found.reason)


def _draw_size(found: Preflight) -> None:
    """Draw what a format takes on the disk, beside the dense weights."""
    if not found.possible:
        return
    st.markdown(f"**{size(found.bytes)}**")
    share = found.bytes / found.dense_bytes - 1
    if found.format == "masks":
        words = "beside the original"
    elif round(1000 * share) == 0:
        words = "as large as dense"
    else:
        words = f":{'green' if share < 0 else 'orange'}[{change(share)} to dense]"
    st.markdown(words)


def _ask(candidate: Candidate) -> None:
    """Draw the button that finds out, where it takes work or was stopped."""
    if ENGINE.plan(candidate[0]) is None:
        st.markdown(
            "What leaves has not been worked out for this recipe yet. That is done when it is "
            "measured, or here: layer by layer, which takes a while."
        )
    st.button(
        "Work it out and look at the formats",
        type="primary",
        icon=":material/fact_check:",
        key="look-at-formats",
        on_click=_look,
        args=(candidate,),
    )


def _look(candidate: Candidate) -> None:
    state.submit(lambda: ENGINE.look_at_formats(state.owner(), candidate))


def _asked(candidate: Candidate) -> bool:
    """Whether the last that this tab has looked at were the formats for this candidate.

    If there is nothing to see of it, it was stopped or has failed: then only by hand.
    """
    asked = [job.title for job in ENGINE.jobs.jobs(state.owner()) if job.kind == "formats"]
    return asked[-1:] == [looking_at(candidate)]


def _waiting() -> None:
    # The sidebar was drawn before this was asked for and may not be watching it.
    state.refresh()
    job = state.job("formats")
    if job is not None:
        progress = job.progress
        share = progress.done / progress.total if progress.total else 0.0
        st.progress(min(share, 1.0), text=f"{job.title}: {progress.stage or 'waiting'}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
