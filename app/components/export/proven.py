"""What was exported and proven, in large letters, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.components.export.loading import loading_lines
from app.engine import ENGINE
from app.exports import Candidate, Written
from app.results import OnBench
from app.words import change, size

ALONE = 260
"""Width in pixels of a number's card that has none beside it."""


def written_of(model: OnBench, candidate: Candidate) -> Written | None:
    """Return the last export of a candidate, if there was one since the model was loaded."""
    exports = ENGINE.exports(model.fingerprint)
    return exports.written.get(candidate) if exports else None


def draw_written(written: Written) -> None:
    """Draw an export: the proof first."""
    order, done = written.order, written.done
    proof = done.proof
    st.subheader(f"Exported: {order.format}{', trained' if order.trained else ''}")
    if "read_back" in proof:
        st.success(
            f"**Proven.** Read back and found equal to the pruned model: {proof['read_back']}.",
            icon=":material/verified:",
        )
        if order.format == "masks":
            st.caption("It holds no weights: it is applied to the original model, with Prunescope.")
        else:
            st.warning(
                "What it computes was not compared: only llama.cpp runs this architecture. Try it "
                "before it is passed on.",
                icon=":material/help:",
            )
    else:
        st.success(
            "**Proven.** A fresh process that cannot import Prunescope opened it and computes what "
            "the pruned model computes.",
            icon=":material/verified:",
        )
    _draw_numbers(written, proof)
    st.markdown("Where it lies")
    st.code(str(done.folder), language=None, wrap_lines=True)
    st.markdown("How to open it")
    lines, language = loading_lines(order.format, done.folder, proof, order.recipe.model)
    st.code(lines, language=language, wrap_lines=True)
    st.caption(_conditions(written, proof))


def draw_others(model: OnBench, candidate: Candidate) -> None:
    """Draw where exports of other candidates lie that were written since the model was loaded."""
    exports = ENGINE.exports(model.fingerprint)
    written = exports.written.values() if exports else ()
    others = [export for export in written if export.order.candidate != candidate]
    if not others:
        return
    with st.expander(f"Other exports: {len(others)}", icon=":material/inventory_2:"):
        for export in reversed(others):
            order = export.order
            trained = ", trained" if order.trained else ""
            st.text(f"{order.format}, recipe {order.recipe.digest}{trained}\n{export.done.folder}")


def _draw_numbers(written: Written, proof: Mapping[str, Any]) -> None:
    dense = written.done.preflight.dense_bytes
    with st.container(horizontal=True, key="proof"):
        if "read_back" not in proof:
            difference = proof["max_logit_difference"]
            st.metric(
                "Greatest logit difference",
                f"{difference:.2g}" if difference else "0, exact",
                f"largest logit {proof['largest_logit']:.3g}",
                delta_color="off",
                delta_arrow="off",
                border=True,
            )
            st.metric(
                "Greedy tokens",
                "equal" if proof["tokens_equal"] else "as likely",
                f"{proof['tokens_compared']} compared",
                delta_color="off",
                delta_arrow="off",
                border=True,
                help=None
                if proof["tokens_equal"]
                else "Where two tokens were as likely as each other, rounding chose another one.",
            )
            st.metric(
                "Opened as",
                proof["class"],
                "with the code beside it" if proof["remote_code"] else "by stock code",
                delta_color="off",
                delta_arrow="off",
                border=True,
            )
        st.metric(
            "On the disk",
            size(written.bytes),
            f"{change(written.bytes / dense - 1)} to dense weights",
            delta_color="inverse",
            border=True,
            width="stretch" if "read_back" not in proof else ALONE,
        )


def _conditions(written: Written, proof: Mapping[str, Any]) -> str:
    took = f"Written and proven in {written.seconds:.0f} s."
    if "read_back" in proof:
        return took
    versions = ", ".join(f"{name} {version}" for name, version in proof["versions"].items())
    return (
        f"{took} Compared in {proof['arithmetic']} on {proof['device']}, weights in "
        f"{proof['dtype']}: {versions}. The proof lies beside the checkpoint, in "
        "prunescope-proof.json."
    )
