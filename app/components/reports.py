"""A report of runs to send round: one HTML file, made when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app import state
from app.results import Answers
from pruning_core.history import SavedRun
from pruning_core.report import report_of


def draw_report(run: SavedRun, alike: Sequence[SavedRun]) -> None:
    """Draw the choice of what is reported: one run, or all that were measured as it was."""
    with st.popover("Report", icon=":material/description:"):
        st.caption(
            "One HTML file that any browser opens without a network: what was done, the numbers "
            "with their protocol and intervals, charts, the recipe. With what the models wrote "
            "after your prompt, where that was this recipe."
        )
        answers = state.answers()
        st.download_button(
            f"Of {run.label}",
            lambda: report_of([reported(run, answers)]),
            f"report-{run.id}.html",
            "text/html",
            key="report-run",
            icon=":material/download:",
            on_click="ignore",
        )
        if len(alike) > 1:
            st.download_button(
                f"Of the {len(alike)} runs measured alike",
                lambda: report_of([reported(each, answers) for each in alike]),
                f"report-{run.fingerprint}.html",
                "text/html",
                key="report-alike",
                icon=":material/download:",
                on_click="ignore",
            )


def reported(run: SavedRun, answers: Answers | None) -> Mapping[str, Any]:
    """Return a run as a report reads it, with the answers of this tab if they are its recipe's."""
    if answers is None or answers.pruned is None or answers.recipe != run.recipe:
        return run.values
    sample = {
        "prompt": answers.prompt,
        "dense": answers.dense.text,
        "pruned": answers.pruned.text,
    }
    return {**run.values, "samples": [sample]}
