"""One slider for the whole model: how much smaller it shall become."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.curves import known_of
from app.components.sharing import ENDS, places_of
from app.engine import ENGINE
from app.results import OnBench
from app.words import size
from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import most_ends
from pruning_core.planning.allocation import overall, protect_ends, uniform
from pruning_core.planning.budget import BudgetKind, Limits
from pruning_core.planning.search import Terms, best_shape
from pruning_core.recipe import STRUCTURED, PatternKind, Recipe, SiteKey

if TYPE_CHECKING:
    from pruning_core.planning.prediction import Predictor

MOST = 60
NEAR = 2
"""Percentage points by which widths that only come in steps may miss what was asked for."""

LIMITS = Limits(multiple=8, may_remove=True)


def draw_slider(model: OnBench, recipe: Recipe) -> None:
    """Draw the slider, and the sentence that says why it did not stay where it was put."""
    shrinks = recipe.pattern == STRUCTURED
    question = "How much smaller?" if shrinks else "How much to leave out?"
    st.header(question, anchor=False)

    def take(percentage: int) -> None:
        _take(model, percentage)

    st.slider(
        question,
        0,
        MOST,
        key=state.control("smaller", _position(model, recipe)),
        format="%d%%",
        on_change=state.moving("smaller", take),
        disabled=recipe.pattern.kind is PatternKind.N_OF_M,
        label_visibility="collapsed",
    )
    refused = state.choice("refused")
    if refused is not None and refused[0] == recipe:
        st.info(refused[1], icon=":material/block:")
    if recipe.pattern.kind is PatternKind.N_OF_M:
        st.markdown("How much is left out is fixed in this mode. The Tune page has another.")
    if not shrinks:
        st.markdown(
            "In this mode numbers inside the model become zero and stay where they are: it does "
            f"not get smaller, its size stays {size(model.dense_bytes)}."
        )


def shape_for(
    model: OnBench, recipe: Recipe, share: float, predictor: Predictor | None
) -> Mapping[SiteKey, float]:
    """Return the sparsity of every site with which a share of the whole model leaves.

    That is the best shape by what is predicted; where nothing is, the ends are protected.

    Args:
        share: of the model's parameters, 0 to 1.
        recipe: what it locks stays as it is.

    Raises:
        PrunescopeError: in plain words, if so much cannot leave.
    """
    places = places_of(model, recipe)
    locked = {site: recipe.at(site) for site in recipe.locks}
    if not share:
        return {place.key: 0.0 for place in places if place.key not in locked}
    whole = model.anatomy.parameters
    of_places = whole / sum(place.size for place in places)
    if predictor is not None:
        most = overall(places, uniform(places, 1.0, locked)) / of_places
        terms = Terms(BudgetKind.PARAMETERS, whole * (1 - share), limits=LIMITS)
        try:
            return best_shape(terms, predictor, recipe, model.anatomy).sparsity
        except PrunescopeError as error:
            raise _too_much(share, most) from error
    ends = min(ENDS, most_ends(model.anatomy.layers))
    most = overall(places, protect_ends(places, 1.0, ends, locked)) / of_places
    if share > most:
        raise _too_much(share, most)
    return protect_ends(places, min(share * of_places, 1.0), ends, locked)


def _take(model: OnBench, percentage: int) -> None:
    """Change the recipe to what the slider asks for, or say why that cannot be."""
    recipe = state.recipe(model)
    known = known_of(recipe)
    try:
        shape = shape_for(model, recipe, percentage / 100, known.predictor if known else None)
    except PrunescopeError as error:
        state.remember("refused", (recipe, str(error)))
        return
    writing = state.job("write")
    if writing is not None:  # its answers would be of the recipe before, and they hold up this one
        writing.cancel()
    state.change_sparsity(model, shape)
    state.remember("asked_smaller", (state.recipe(model), percentage))


def _too_much(share: float, most: float) -> PrunescopeError:
    return PrunescopeError(
        f"{round(100 * share)} % is too much: no more than {int(100 * most)} % of this model can "
        "leave, the rest has to stay. Ask for less."
    )


def _position(model: OnBench, recipe: Recipe) -> int:
    """Return where the slider stands: at what leaves, or where it was put if that is all but it."""
    plan = ENGINE.plan(recipe)
    if plan is not None:
        share = plan.sparsity_of_all
    else:
        places = places_of(model, recipe)
        removed = sum(place.snap(recipe.at(place.key)) * place.size for place in places)
        share = removed / model.anatomy.parameters
    asked = state.choice("asked_smaller")
    if asked is not None and asked[0] == recipe and abs(100 * share - asked[1]) < NEAR:
        return int(asked[1])
    return min(round(100 * share), MOST)
