"""Which accuracy follows the slider: of the next token, or of a task, on how many items."""

from __future__ import annotations

import streamlit as st

from app import state
from app.asking import supply
from app.results import Sample
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import TASKS

NONE = "none"
SIZES = (20, 50, 100, 200, 500, 1000)


def sample_controls(column: st.delta_generator.DeltaGenerator) -> None:
    """Draw the choice of an accuracy, folded away behind what is chosen."""
    sample = state.choice("sample")
    chosen = f"{TASKS[sample.task].title}, {sample.items}" if sample else "Next token"
    with column.popover(chosen, icon=":material/quiz:", width="stretch"):
        try:
            folder, there, _ = supply()
        except PrunescopeError as error:
            st.error(str(error), icon=":material/error:")
            return
        _draw_choices(there, sample)
        st.caption(
            "The next token comes with the perplexity, on the same text. A task is asked after "
            "perplexity and speed whenever a shape is let go; the dense and the pruned model "
            "answer the same items. Few are quick and sure of little: the card says what is within "
            f"noise. All of a task is asked on the Runs page. Rows come from {folder or 'the hub'}."
        )


def _draw_choices(there: tuple[str, ...], sample: Sample | None) -> None:
    def take(task: str, items: int) -> None:
        state.remember("sample_items", items)
        state.remember("sample", None if task == NONE else Sample(task, items))

    task, items = sample.task if sample else NONE, state.choice("sample_items")
    names = [NONE, *there]
    st.selectbox(
        "Accuracy that follows the slider",
        names if task in names else [*names, task],
        key=state.control("sample-task", task),
        format_func=lambda name: "Next token" if name == NONE else TASKS[name].title,
        on_change=state.moving("sample-task", lambda name: take(name, items)),
    )
    st.select_slider(
        "Items",
        SIZES,
        key=state.control("sample-items", items),
        on_change=state.moving("sample-items", lambda count: take(task, count)),
        disabled=sample is None,
    )
