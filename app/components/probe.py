"""On what the numbers are measured, and whether that may be text that was calibrated on."""

from __future__ import annotations

import streamlit as st

from app import state
from pruning_core.evaluation.protocol import PROTOCOLS


def probe_controls(
    chosen: st.delta_generator.DeltaGenerator, leak: st.delta_generator.DeltaGenerator
) -> None:
    """Draw the choice of a probe, and the switch that lets text leak; every page shares both."""
    chosen.selectbox(
        "Measure on",
        [name for name in PROTOCOLS if name.startswith("probe")],
        key=state.control("probe", state.choice("probe")),
        format_func=lambda name: PROTOCOLS[name].title,
        on_change=state.keep("probe", "probe"),
    )
    leak.toggle(
        "Allow a leak",
        key=state.control("allow-leak", state.choice("allow_leak")),
        on_change=state.keep("allow_leak", "allow-leak"),
        help="Measure even if the calibration text overlaps the measured one. Every number is then "
        "marked: it flatters.",
    )
