"""One sentence that the model goes on with, before and after."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.measuring import measured_of
from app.components.polling import polled
from app.components.writing import TOKENS
from app.engine import ENGINE
from app.results import Answers, OnBench
from pruning_core.recipe import Recipe

if TYPE_CHECKING:
    from pruning_core.evaluation.generation import Generated


def draw_answers(model: OnBench, recipe: Recipe) -> None:
    """Draw the sentence and what either model makes of it; asked by itself once it is measured."""
    st.subheader("In its own words", anchor=False)
    _ask_once(model, recipe)
    writing = state.job("write") is not None
    field, button = st.columns([3, 1], vertical_alignment="bottom")

    def take(question: str) -> None:
        state.remember("question", question)
        _ask(model, recipe)

    field.text_input(
        "Begin a sentence",
        key=state.control("question", state.choice("question")),
        on_change=state.moving("question", take),
    )
    button.button(
        "Ask again",
        icon=":material/refresh:",
        key="ask-again",
        on_click=_ask,
        args=(model, recipe),
        disabled=writing,
        width="stretch",
    )
    polled(_answers, running=writing)(recipe)


def _ask(model: OnBench, recipe: Recipe) -> None:
    state.remember("asked", (model.id, recipe, state.choice("question")))
    state.submit(lambda: ENGINE.write(state.owner(), recipe, state.choice("question"), TOKENS))


def _ask_once(model: OnBench, recipe: Recipe) -> None:
    """Ask of a recipe when its numbers are there, for those come first; not again if stopped."""
    ready = measured_of(model, recipe) is not None and state.job("measure") is None
    if ready and state.choice("asked") != (model.id, recipe, state.choice("question")):
        _ask(model, recipe)


def _answers(recipe: Recipe) -> None:
    # The sidebar was drawn before these answers were asked for and may not be watching them.
    state.refresh()
    job = state.job("write")
    writing = job is not None and not job.finished
    brought = job and (job.result or job.partial)
    answers = brought if isinstance(brought, Answers) else state.answers()
    if answers is not None and answers.recipe.fingerprint != recipe.fingerprint:
        answers = None  # another model's
    asked = answers is not None and answers.prompt == state.choice("question")
    before, after = st.columns(2)
    with before.container(border=True, height="stretch"):
        _answer("Before", answers, answers.dense if answers else None, fresh=asked, writing=writing)
    with after.container(border=True, height="stretch"):
        fresh = asked and answers is not None and answers.recipe == recipe
        _answer("After", answers, answers.pruned if answers else None, fresh=fresh, writing=writing)


def _answer(
    title: str, answers: Answers | None, text: Generated | None, *, fresh: bool, writing: bool
) -> None:
    """Draw one of both; what belongs to an earlier setting says so."""
    st.markdown(f"#### {title}")
    if answers is not None and text is not None:
        if not fresh:
            st.caption(":orange-badge[From an earlier setting]")
        st.text(re.sub(r"\n\s*\n", "\n", answers.prompt + text.text))  # both fit on one screen
    elif writing:
        st.caption("Writing…")
