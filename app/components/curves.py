"""What each site costs alone, measured in the background, and how well that predicts recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app import figures, state
from app.components.polling import POLL_SECONDS, polled
from app.engine import ENGINE
from app.results import OnBench
from app.words import percent
from pruning_core.evaluation.protocol import protocol
from pruning_core.recipe import Recipe

if TYPE_CHECKING:
    from pruning_core.evaluation.sensitivity import Sensitivity
    from pruning_core.planning.plan import Plan


def draw_curves(model: OnBench, recipe: Recipe, _plan: Plan | None) -> None:
    """Draw the curves as far as they are known, and the button that measures them."""
    gathering = state.job("sensitivity") is not None
    gather_button(model, recipe)
    polled(_picture, running=gathering, every=5 * POLL_SECONDS)(model, recipe)


def gather_button(model: OnBench, recipe: Recipe) -> None:
    """Draw the button that gathers what predictions need, unless all of it is there."""
    known = known_of(recipe)
    if (known and not known.left) or state.job("sensitivity"):
        return
    st.button(
        "Go on learning to predict" if known else "Learn to predict",
        key="gather",
        type="primary",
        icon=":material/insights:",
        on_click=lambda: state.submit(
            lambda: ENGINE.gather_sensitivity(
                state.owner(), recipe, protocol(state.choice("probe"))
            )
        ),
        help="Measures, in the background, what pruning each site alone costs, and then recipes of "
        "random shapes. Whatever you measure meanwhile goes first, and teaches too.",
    )


def known_of(recipe: Recipe) -> Sensitivity | None:
    """Return what has been gathered on this tab's probe, under the scoring of a recipe."""
    return ENGINE.sensitivity(recipe, protocol(state.choice("probe")))


def _picture(model: OnBench, recipe: Recipe) -> None:
    known = known_of(recipe)
    if known is None or known.curves is None:
        st.caption(
            "Nothing is known yet of what each site costs. It is measured once for this way to "
            "rank units and this probe; then every shape is predicted while it is dragged."
        )
        return
    st.plotly_chart(
        figures.sensitivity(known.curves.sites, model.anatomy.layers),
        key="sensitivity",
        config={"displayModeBar": False},
        alt="By how much the loss rises when one site alone is pruned, by layer and sparsity",
    )
    words = f"{known.done} of {known.done + known.left} measurements."
    predictor = known.predictor
    if predictor is not None and predictor.error is not None:
        words += (
            f" {len(known.observed)} recipes teach how sites add up: half of all predicted "
            f"increases are within {percent(predictor.error, 0)} of the measured ones, each of "
            "them predicted from the others."
        )
    st.caption(
        "Nats per token that the loss rises when one site alone is pruned, all others dense. "
        + words
    )
