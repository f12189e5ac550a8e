"""Present: the same recipe as on Tune, for people who decide: how small, and how good still."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.bench import require_model, score_button
from app.components.present.answers import draw_answers
from app.components.present.chart import draw_chart
from app.components.present.numbers import draw_numbers
from app.components.present.slider import draw_slider
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.recipe import STRUCTURED, Recipe


def draw_start(model: OnBench, recipe: Recipe) -> None:
    """Draw the one thing to do while it is not known what may leave."""
    st.header("How small can it get, and stay good?", anchor=False)
    st.markdown("Reads a little text, once, to find out which parts of the model matter least.")
    score_button(model, "Get ready", (recipe.scoring,))


bench = require_model()
state.follow_maps(bench)
present = state.recipe(bench)
if present.pattern == STRUCTURED and ENGINE.plan(present) is None:
    draw_start(bench, present)
else:
    draw_slider(bench, present)
    draw_numbers(bench, present)
    chart, answers = st.columns([5, 7], gap="medium")
    with chart:
        draw_chart(bench, present)
    with answers:
        draw_answers(bench, present)
