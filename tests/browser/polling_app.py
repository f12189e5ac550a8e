"""A page with a part that polls, and a neighbour; the browser hears late of every run.

Each full run holds the server's event loop and asks for the part's turn as a browser's poll does,
so that the turn begins before anything of the run has been sent.
"""

from __future__ import annotations

import time

import streamlit as st
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner import RerunData, get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_run_context import ThreadState

from app.components.polling import polled

run = st.session_state["run"] = st.session_state.get("run", 0) + 1
turns = []


def draw() -> None:
    turns.append(ThreadState.get().fragment_id)
    st.text(f"Turn {len(turns)} of run {run}")


st.button("Again")
get_instance()._get_async_objs().eventloop.call_soon_threadsafe(time.sleep, 1.0)
polled(draw, running=False)()
left, right = st.columns(2)
left.text("The neighbour")
right.button("Beside it")
st.text(f"Run {run}")
get_script_run_ctx().script_requests.request_rerun(RerunData(fragment_id=turns[0]))
