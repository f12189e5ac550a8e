"""What every page but the first begins with: a model, and maps made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.engine import ENGINE
from app.results import OnBench
from pruning_core.recipe import Scoring

if TYPE_CHECKING:
    from pruning_core.importance.map import ImportanceMap


def require_model() -> OnBench:
    """Return the model on the bench; without one, say so and end the page here."""
    model = ENGINE.model
    if model is None:
        st.info(
            "There is no model on the bench yet: the sidebar shows if one is on its way, and the "
            "Model page loads one.",
            icon=":material/hourglass:",
        )
        st.stop()
    return model


def find_map(model: OnBench, estimator: str) -> ImportanceMap | None:
    """Return an estimator's map on this tab's calibration, if it has been made."""
    return ENGINE.map(model.fingerprint, state.scoring(estimator))


def score_button(model: OnBench, label: str, scorings: tuple[Scoring, ...]) -> None:
    """Draw the button that makes some importance maps."""
    if st.button(
        label,
        type="primary",
        icon=":material/play_arrow:",
        disabled=state.job("score") is not None,
    ):
        state.submit(lambda: ENGINE.score(state.owner(), model.fingerprint, scorings))
        st.rerun()
