"""The link that carries a recipe: read once when a tab opens, and kept true while it is open.

A tab that is reloaded, or opened from a link somebody sent, comes back to the recipe.
"""

from __future__ import annotations

import streamlit as st

from app import state
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Recipe
from pruning_core.recipe_link import PARAMETER, decode, encode


def follow_link(model: OnBench | None) -> None:
    """Take over the recipe of the address once its model is on the bench, then follow the recipe.

    A link for another model waits until that is loaded; the address keeps it until something else
    is pruned.
    """
    if not state.choice("link_read"):
        state.remember("link_read", True)
        state.remember("link", _read())
    if model is None:
        return
    waiting: Recipe | None = state.choice("link")
    if waiting is not None and waiting.fingerprint == model.fingerprint:
        state.remember("link", None)
        state.remember("link_told", True)
        _take(model, waiting)
    if waiting is not None and not state.choice("link_told"):
        state.remember("link_told", True)
        state.warn(
            f"The link carries a recipe for {waiting.model}, which is not on the bench: load it on "
            "the Model page, and the recipe is taken over."
        )
    present = state.recipe(model)
    if _touched(present) or state.choice("link") is None:
        _write(present)


def _read() -> Recipe | None:
    text = st.query_params.get(PARAMETER)
    if text is None:
        return None
    try:
        return decode(text)
    except PrunescopeError as error:
        state.warn(f"The recipe in the link was not taken over. {error}")
        return None


def _take(model: OnBench, recipe: Recipe) -> None:
    from pruning_core.planning.plan import check_recipe

    try:
        check_recipe(recipe, model.fingerprint, model.anatomy)
    except PrunescopeError as error:
        state.warn(f"The recipe in the link was not taken over. {error}")
    else:
        state.change(model, recipe)


def _touched(recipe: Recipe) -> bool:
    return bool(recipe.sparsity or recipe.locks)


def _write(recipe: Recipe) -> None:
    """Let the address carry the recipe; one that nothing was done to, or too large, is in none."""
    try:
        text = encode(recipe) if _touched(recipe) else None
    except PrunescopeError:
        text = None
    if text is None:
        st.query_params.pop(PARAMETER, None)
    elif st.query_params.get(PARAMETER) != text:
        st.query_params[PARAMETER] = text
