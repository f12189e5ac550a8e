"""Train what is left, and whether what was trained is what is exported."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.recover.choices import draw_choices
from app.components.recover.result import draw_result
from app.components.recover.running import draw_ending, draw_running, last_of
from app.engine import ENGINE
from app.recoveries import Trained
from app.results import OnBench
from pruning_core.recipe import Recipe

ABOUT = (
    "Low-rank updates (LoRA) of every matrix that is left learn to make up for what has gone. They "
    "are merged into the weights at the end: nothing gets larger, and what is zero stays zero."
)


def draw_recover(model: OnBench, recipe: Recipe) -> Trained | None:
    """Draw the section, which is folded up until something goes on in it; none if nothing is cut.

    Returns:
        The training whose outcome is to be exported, None for the plan as it was cut.
    """
    plan = ENGINE.plan(recipe)
    if plan is not None and not plan.removed_parameters:
        return None
    recoveries = ENGINE.recoveries(model.fingerprint)
    trained = recoveries.results.get(recipe) if recoveries else None
    busy = state.job("recover") is not None
    opened = busy or trained is not None or last_of(recipe) is not None
    with st.expander(
        "Train what is left (LoRA)", expanded=opened, icon=":material/fitness_center:"
    ):
        st.caption(ABOUT)
        draw_choices(model, recipe, trained, busy=busy)
        draw_running(busy=busy)
        if not busy:
            draw_ending(recipe)
        exported = trained is not None and draw_result(trained)
    if trained is None:
        return None
    if exported:
        st.markdown(
            f":green-badge[:material/fitness_center: trained] What follows is of the **trained** "
            f"model, after {trained.record['steps']:,} steps. The numbers of the Tune page stay "
            "those of the plan without training."
        )
        return trained
    st.markdown(
        ":gray-badge[:material/content_cut: not trained] What follows is of the plan **without** "
        "training, as it is on the Tune page."
    )
    return None
