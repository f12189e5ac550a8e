"""The row of numbers on top of the tuner: the pruned model beside the dense one, measured."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from app.components.jobs import POLL_SECONDS
from app.engine import ENGINE
from app.results import Measured, OnBench
from app.words import change, count, percent, perplexity, size
from pruning_core.recipe import PatternKind, Recipe

if TYPE_CHECKING:
    from pruning_core.planning.plan import Plan


def numbers_panel(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Measure the recipe if that has not been done, and draw what is known so far.

    Args:
        plan: None where it is made only when the recipe is measured.
    """
    wanted = (model.id, recipe, state.choice("probe"), state.choice("allow_leak"))
    if state.choice("requested") != wanted:
        state.remember("requested", wanted)
        _measure(recipe)
    measuring = state.job("measure") is not None
    st.fragment(_panel, run_every=POLL_SECONDS if measuring else None)(model, recipe, plan)
    # A measurement that was stopped or has failed is asked for again by hand only.
    if not measuring and _fitting(model, recipe) is None:
        st.button("Measure", icon=":material/speed:", on_click=_measure, args=(recipe,))


def _measure(recipe: Recipe) -> None:
    from pruning_core.evaluation.protocol import protocol

    state.submit(
        lambda: ENGINE.measure(
            state.owner(),
            recipe,
            protocol(state.choice("probe")),
            allow_leak=state.choice("allow_leak"),
        )
    )


def _panel(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    from pruning_core.planning.plan import dense_cost

    # The sidebar was drawn before this measurement was asked for and may not be watching it.
    state.refresh()
    measured = _fitting(model, recipe)
    job = state.job("measure")
    window = measured.protocol.window if measured else 256
    dense = dense_cost(model.anatomy, model.dense_bytes, window)
    pruned = plan.cost(model.dense_bytes, window) if plan else measured and measured.pruned.cost
    pending = "…" if job and not job.finished else "—"
    with st.container(horizontal=True, key="numbers"):
        _quality(measured, pending)
        for label, read, words in (
            (_parameters(recipe), attrgetter("parameters"), count),
            ("Memory", attrgetter("bytes"), size),
            ("Operations / token", attrgetter("operations"), count),
        ):
            if pruned is None:
                _metric(label, pending, None, f"dense {words(read(dense))}")
            else:
                relative = read(pruned) / read(dense) - 1
                _cost(label, words(read(pruned)), words(read(dense)), relative)
        _speed(measured, pending)
    _footnote(measured)


def _parameters(recipe: Recipe) -> str:
    structured = recipe.pattern.kind is PatternKind.STRUCTURED
    return "Parameters" if structured else "Non-zero"


def _fitting(model: OnBench, recipe: Recipe) -> Measured | None:
    """Return the measurement of this very recipe, model and probe, if there is one."""
    job = state.job("measure")
    for candidate in (state.measured(), job and (job.result or job.partial)):
        if (
            isinstance(candidate, Measured)
            and (candidate.bench, candidate.recipe) == (model.id, recipe)
            and candidate.protocol.name == state.choice("probe")
        ):
            return candidate
    return None


def _quality(measured: Measured | None, pending: str) -> None:
    if measured is None:
        _metric("Perplexity", pending, None, "dense: measured with it")
        _metric("Next token right", pending, None, "dense: measured with it")
        return
    mark = " (leak)" if measured.leaked else ""
    dense, pruned = measured.dense.quality, measured.pruned.quality
    _metric(
        f"Perplexity{mark}",
        perplexity(pruned.perplexity),
        change(pruned.perplexity / dense.perplexity - 1)
        if pruned.perplexity < 1e9
        else "off the scale",
        f"dense {perplexity(dense.perplexity)}",
        "inverse",
    )
    _metric(
        f"Next token right{mark}",
        percent(pruned.accuracy, 2),
        f"{100 * (pruned.accuracy - dense.accuracy):+.2f} points",
        f"dense {percent(dense.accuracy, 2)}",
    )


def _cost(label: str, value: str, dense: str, relative: float) -> None:
    _metric(label, value, change(relative), f"dense {dense}", "inverse")


def _speed(measured: Measured | None, pending: str) -> None:
    if measured is None or measured.pruned.speed is None or measured.dense.speed is None:
        _metric("Tokens / s", pending, None, "dense: measured with it")
        return
    pruned, dense = measured.pruned.speed, measured.dense.speed
    _metric("Tokens / s", f"{pruned:.0f}", change(pruned / dense - 1, 0), f"dense {dense:.0f}")


def _metric(label: str, value: str, delta: str | None, dense: str, colour: str = "normal") -> None:
    with st.container(border=True, key=f"number-{label}"):
        neutral = delta is None or delta.lstrip("+-").startswith(("0.0 ", "0.00 ", "0 "))
        st.metric(
            label,
            value,
            delta,
            delta_color="off" if neutral else colour,  # type: ignore[arg-type]
            delta_arrow="off" if neutral else "auto",
        )
        st.caption(dense)


def _footnote(measured: Measured | None) -> None:
    if measured is None:
        return
    words = (
        f"{measured.protocol.title}: {measured.pruned.quality.tokens:,} scored tokens, dense and "
        "pruned on the same windows in this process. Speed: prefill of one window."
    )
    if measured.leaked:
        words = "**Calibration and measurement text overlap: these numbers flatter.** " + words
    st.caption(words)
