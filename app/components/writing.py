"""The dense and the pruned model continue one prompt, side by side."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.polling import polled
from app.engine import ENGINE
from app.results import Answers, OnBench
from pruning_core.recipe import Recipe

TOKENS = 48


def writing_panel(model: OnBench, recipe: Recipe) -> None:
    """Draw the prompt and both answers."""
    st.subheader("In its own words")
    prompt, button = st.columns([5, 1], vertical_alignment="bottom")
    prompt.text_input(
        "Prompt",
        key=state.control("prompt", state.choice("prompt")),
        on_change=state.keep("prompt", "prompt"),
    )
    if button.button("Write", icon=":material/edit:", width="stretch"):
        state.submit(lambda: ENGINE.write(state.owner(), recipe, state.choice("prompt"), TOKENS))
        st.rerun()
    writing = state.job("write") is not None
    polled(_answers, running=writing)(recipe)


def _answers(recipe: Recipe) -> None:
    job = state.job("write")
    brought = job and (job.result or job.partial)
    answers = brought if isinstance(brought, Answers) else state.answers()
    if answers is None:
        return
    dense, pruned = st.columns(2)
    with dense.container(border=True):
        st.markdown("**Dense**")
        st.text(answers.prompt + answers.dense.text)
    with pruned.container(border=True):
        stale = " (an earlier recipe)" if answers.recipe != recipe else ""
        st.markdown(f"**Pruned**{stale}")
        if answers.pruned is None:
            st.caption("Writing…")
        else:
            st.text(answers.prompt + answers.pruned.text)
