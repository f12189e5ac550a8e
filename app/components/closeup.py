"""Down to single weights: a cut-out of one matrix, scored in full when someone asks."""

from __future__ import annotations

import streamlit as st

from app import figures, state
from app.engine import ENGINE
from app.results import OnBench

SPAN = 128
"""How many rows and columns are shown at once; a browser never gets a whole matrix."""


def draw_closeup(model: OnBench, tensor: str) -> None:
    """Draw a cut-out of a matrix weight by weight, or the button that scores it."""
    calibration = state.calibration()
    scores = ENGINE.closeup(model.fingerprint, calibration, tensor)
    if scores is None:
        if st.button(
            "Zoom to single weights",
            icon=":material/zoom_in:",
            disabled=state.job("closeup") is not None,
            help="Maps keep weights in tiles only; this scores every weight of this matrix again, "
            "with one backward pass per window.",
        ):
            state.submit(
                lambda: ENGINE.look_closer(state.owner(), model.fingerprint, calibration, tensor)
            )
            st.rerun()
        return
    rows, columns = scores.shape
    first, second = st.columns(2)
    top = first.number_input(
        f"First output, of {rows:,}", 0, max(rows - SPAN, 0), step=SPAN, key=f"top-{tensor}"
    )
    left = second.number_input(
        f"First input, of {columns:,}", 0, max(columns - SPAN, 0), step=SPAN, key=f"left-{tensor}"
    )
    cut = scores[top : top + SPAN, left : left + SPAN]
    st.plotly_chart(
        figures.closeup(cut.numpy(), float(scores.mean()), top=top, left=left),
        key="closeup",
        config={"displayModeBar": False},
        alt="Fine-grained importance of single weights",
    )
    st.caption(
        f"{cut.shape[0]} × {cut.shape[1]} single weights by the fine-grained score, as multiples "
        "of the matrix's mean: a light row is an output that matters, a light column an input."
    )
