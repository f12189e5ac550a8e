"""Prunescope in a browser: `python -m streamlit run app/main.py`."""

from __future__ import annotations

import sys
from pathlib import Path

# `streamlit run` puts only this folder on the path; the packages are beside it. Once is enough,
# though this script runs again and again.
if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

import streamlit as st

from app import state
from app.components.jobs import job_panel
from app.components.recipe_file import recipe_file
from app.engine import ENGINE
from app.link import follow_link
from app.words import count

ASSETS = Path(__file__).parents[1] / "assets"

st.set_page_config(page_title="Prunescope", page_icon=str(ASSETS / "icon.svg"), layout="wide")

page = st.navigation(
    [
        st.Page("views/model.py", title="Model", icon=":material/deployed_code:", default=True),
        st.Page("views/importance.py", title="Importance", icon=":material/grid_on:"),
        st.Page("views/fusion.py", title="Fusion", icon=":material/merge:"),
        st.Page("views/tune.py", title="Tune", icon=":material/tune:"),
        st.Page("views/compare.py", title="Compare", icon=":material/balance:"),
        st.Page("views/runs.py", title="Runs", icon=":material/account_tree:"),
        st.Page("views/present.py", title="Present", icon=":material/co_present:"),
        st.Page("views/export.py", title="Export", icon=":material/output:"),
    ],
    position="top",
)


def draw_sidebar() -> None:
    """Draw the model on the bench, the recipe, and what is running."""
    st.markdown("### Prunescope")
    model = ENGINE.model
    if model:
        st.markdown(
            f"**{model.ref}** on {model.device}  \n{model.anatomy.family}, "
            f"{count(model.anatomy.parameters)} parameters, {model.dtype}"
        )
        recipe = state.recipe(model)
        st.caption(f"Recipe {recipe.digest} · ranked by {recipe.scoring.estimator}")
        recipe_file(model, recipe)
    else:
        st.markdown("No model on the bench yet.")
    job_panel()


def draw_notice(notice: str) -> None:
    """Draw what went wrong last, until it is put away."""
    words, button = st.columns([12, 1], vertical_alignment="center")
    words.error(notice, icon=":material/error:")
    button.button(
        "", icon=":material/close:", key="dismiss", help="Dismiss", on_click=state.dismiss
    )


with state.drawing():
    state.autoload()
    follow_link(ENGINE.model)
    with st.sidebar:
        draw_sidebar()
    if wrong := state.notice():
        draw_notice(wrong)
    page.run()
