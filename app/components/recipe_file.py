"""A recipe out to a file, and back in."""

from __future__ import annotations

import streamlit as st

from app import state
from app.results import OnBench
from pruning_core.errors import PrunescopeError
from pruning_core.history import key_recipe_of, parse
from pruning_core.recipe import Recipe


def recipe_file(model: OnBench, recipe: Recipe) -> None:
    """Draw the buttons that save the present recipe and open another."""
    with st.container(horizontal=True):
        st.download_button(
            "Save",
            recipe.to_json(),
            f"recipe-{recipe.digest}.json",
            "application/json",
            key="save-recipe",
            icon=":material/download:",
            help="A small JSON file; the command line takes it with --recipe",
            on_click="ignore",
        )
        with st.popover("Open", icon=":material/folder_open:"):
            st.file_uploader(
                "A recipe or a saved run of this model",
                "json",
                key=state.upload_key(),
                on_change=state.uploading(lambda content: _open(model, content)),
            )


def _open(model: OnBench, content: bytes) -> None:
    """Make an uploaded recipe the present one, or say why it cannot be."""
    from pruning_core.importance.registry import estimator
    from pruning_core.planning.plan import check_recipe

    try:
        recipe = key_recipe_of(parse(content.decode("utf-8", errors="replace")))
        check_recipe(recipe, model.fingerprint, model.anatomy)
        estimator(recipe.scoring.estimator).settings(dict(recipe.scoring.params))
    except PrunescopeError as error:
        state.warn(f"The recipe was not opened. {error}")
    else:
        state.dismiss()
        state.change(model, recipe)
