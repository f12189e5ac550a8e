"""What a training came to, beside the dense and the pruned model."""

from __future__ import annotations

import streamlit as st

from app.components.recover.running import draw_curve
from app.recoveries import Trained
from app.words import change, percent, perplexity


def draw_result(trained: Trained) -> bool:
    """Draw the outcome; return whether what was trained is to be exported."""
    record = trained.record
    dense, pruned, recovered = map(trained.perplexity, ("dense", "pruned", "recovered"))
    mark = " (leak)" if record["measured"]["leaked"] else ""
    st.markdown(f"**{trained.training.protocol.title}**: perplexity{mark}")
    with st.container(horizontal=True, key="recovered"):
        st.metric(
            "Dense",
            perplexity(dense),
            "as it was loaded",
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
        st.metric("Pruned", perplexity(pruned), _beside(pruned, dense), "inverse", border=True)
        st.metric(
            "Trained", perplexity(recovered), _beside(recovered, pruned), "inverse", border=True
        )
        share = trained.regained
        st.metric(
            "Regained",
            "—" if share is None else percent(share),
            "of the loss that pruning added",
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
    draw_curve(trained.curve, "recover-curve")
    st.caption(_how(trained))
    return st.toggle(
        "Export what was trained",
        True,
        key=f"export-trained-{trained.mark}",
        persist_state="session",
        help="Off: the formats below are of the plan as it was cut, without training.",
    )


def _beside(value: float, other: float) -> str:
    """Return by how much a perplexity differs from another one, in words where that is endless."""
    return change(value / other - 1) if max(value, other) < float("inf") else "off the scale"


def _how(trained: Trained) -> str:
    record, settings = trained.record, trained.training.settings
    steps = f"{record['steps']:,} steps"
    if record["ended_early"]:
        steps += f" of {record['of_steps']:,}, ended early"
    distilled = f", {percent(settings.distill, 0)} distilled from dense" if settings.distill else ""
    leak = (
        " **The probe overlaps with text that was learned from: these numbers flatter.**"
        if record["measured"]["leaked"]
        else ""
    )
    return (
        f"{steps} on {record['text']['source']}, rank {settings.rank}{distilled}, "
        f"{record['seconds']:.0f} s. Kept in `{trained.training.folder}`.{leak}"
    )
