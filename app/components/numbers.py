"""The row of numbers on top of the tuner: the pruned model beside the dense one.

While a shape is dragged they are predicted, or counted where counting is exact; once it is let go
they are measured, and the prediction stays beside the measurement with its error.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from app import state
from app.components.measuring import measure, measured_of, want_measured
from app.components.polling import polled
from app.engine import ENGINE
from app.results import Measured, OnBench, Sample
from app.words import change, count, percent, perplexity, size
from pruning_core.evaluation.intervals import perplexity_of
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.recipe import PatternKind, Recipe

if TYPE_CHECKING:
    from pruning_core.planning.plan import Plan

NUMBERS = "numbers"
"""The key of the fragment, for whoever wants only the numbers drawn anew."""

CARD = 200
"""Height of a number's card in pixels, whatever is known of it: the editor below must not move
under the pointer."""


class Predicted(NamedTuple):
    """A predicted perplexity beside the dense one, and the relative error of an increase."""

    perplexity: float
    dense: float
    error: float | None


def numbers_panel(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    """Measure the recipe if that has not been done, and draw what is known so far.

    Args:
        plan: None where it is made only when the recipe is measured.
    """
    want_measured(model, recipe)
    measuring = state.job("measure") is not None
    polled(_panel, running=measuring, key=NUMBERS)(model, recipe, plan)
    # A measurement that was stopped or has failed is asked for again by hand only.
    if not measuring and measured_of(model, recipe) is None:
        st.button("Measure", icon=":material/speed:", on_click=measure, args=(recipe,))


def _panel(model: OnBench, recipe: Recipe, plan: Plan | None) -> None:
    from pruning_core.planning.plan import dense_cost

    # The sidebar was drawn before this measurement was asked for and may not be watching it.
    state.refresh()
    dragged = state.draft(model)
    if dragged is not None:
        recipe, plan = dragged, ENGINE.plan(dragged)
    measured = measured_of(model, recipe)
    predicted = None if measured else _predicted(recipe, plan)
    job = state.job("measure")
    window = measured.protocol.window if measured else 256
    dense = dense_cost(model.anatomy, model.dense_bytes, window)
    pruned = plan.cost(model.dense_bytes, window) if plan else measured and measured.pruned.cost
    pending = "…" if job and not job.finished else "—"
    with st.container(horizontal=True, key="numbers"):
        _quality(measured, predicted, pending)
        _accuracy(measured if predicted is None else None, pending)
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
    _footnote(measured, predicted)
    _note_on_sample(measured)


def _predicted(recipe: Recipe, plan: Plan | None) -> Predicted | None:
    """Return what is predicted for a recipe, if enough is known to."""
    from pruning_core.evaluation.protocol import protocol
    from pruning_core.planning.plan import UnitPlan

    known = ENGINE.sensitivity(recipe, protocol(state.choice("probe")))
    if known is None or known.predictor is None or not isinstance(plan, UnitPlan):
        return None
    predictor = known.predictor
    return Predicted(
        perplexity_of(predictor.dense + predictor.increase(plan.reached)),
        perplexity_of(predictor.dense),
        predictor.error,
    )


def _parameters(recipe: Recipe) -> str:
    structured = recipe.pattern.kind is PatternKind.STRUCTURED
    return "Parameters" if structured else "Non-zero"


def _quality(measured: Measured | None, predicted: Predicted | None, pending: str) -> None:
    if predicted is not None:
        _metric(
            "Perplexity, predicted",
            f"≈ {perplexity(predicted.perplexity)}",
            change(predicted.perplexity / predicted.dense - 1),
            f"dense {perplexity(predicted.dense)}",
            "inverse",
        )
        return
    if measured is None:
        _metric("Perplexity", pending, None, "dense: measured with it")
        return
    dense, pruned = measured.dense.quality, measured.pruned.quality
    _metric(
        f"Perplexity{_mark(measured.leaked)}",
        perplexity(pruned.perplexity),
        change(pruned.perplexity / dense.perplexity - 1)
        if pruned.perplexity < 1e9
        else "off the scale",
        f"dense {perplexity(dense.perplexity)}{_prediction(measured)}",
        "inverse",
    )


def _accuracy(measured: Measured | None, pending: str) -> None:
    """Draw how often the next token is right, or a task if one follows the slider."""
    if (sample := state.choice("sample")) is not None:
        _answers(measured, sample, pending)
        return
    if measured is None:
        _metric("Next token right", pending, None, "measured on release")
        return
    dense, pruned = measured.dense.quality.accuracy, measured.pruned.quality.accuracy
    _metric(
        f"Next token right{_mark(measured.leaked)}",
        percent(pruned, 2),
        f"{100 * (pruned - dense):+.2f} points",
        f"dense {percent(dense, 2)}",
    )


def _answers(measured: Measured | None, sample: Sample, pending: str) -> None:
    title = TASKS[sample.task].title
    answers = measured.answered(sample) if measured else None
    if answers is None:
        _metric(f"{title} right", pending, None, f"{sample.items} items, asked last")
        return
    dense, pruned, delta = (answers[side]["acc"] for side in ("dense", "pruned", "delta"))
    _metric(
        f"{title} right{_mark(answers['leaked'])}",
        percent(pruned["value"]),
        f"{100 * delta['value']:+.1f} points" if delta["beyond_noise"] else "0 within noise",
        f"dense {percent(dense['value'])} · guessing {percent(answers['chance'], 0)}",
    )


def _mark(leaked: bool) -> str:
    return " (leak)" if leaked else ""


def _prediction(measured: Measured) -> str:
    """Return what had been predicted, and how far off it was."""
    if measured.predicted is None:
        return ""
    predicted = perplexity_of(measured.predicted)
    off = predicted / measured.pruned.quality.perplexity - 1
    return f" · predicted {perplexity(predicted)} ({change(off)})"


def _cost(label: str, value: str, dense: str, relative: float) -> None:
    _metric(label, value, change(relative), f"dense {dense}", "inverse")


def _speed(measured: Measured | None, pending: str) -> None:
    if measured is None or measured.speeds is None:
        _metric("Tokens / s", pending, None, "dense: measured with it")
        return
    found = measured.speeds
    sure = found.times.low > 1 or found.times.high < 1
    faster = change(found.times.value - 1, 0) if sure else "0 % within noise"
    _metric("Tokens / s", f"{found.pruned:.0f}", faster, f"dense {found.dense:.0f}")


def _metric(label: str, value: str, delta: str | None, dense: str, colour: str = "normal") -> None:
    with st.container(border=True, key=f"number-{label}", height=CARD, gap=None):
        neutral = delta is None or delta.lstrip("+-").startswith(("0.0 ", "0.00 ", "0 "))
        st.metric(
            label,
            value,
            delta,
            delta_color="off" if neutral else colour,  # type: ignore[arg-type]
            delta_arrow="off" if neutral else "auto",
        )
        st.caption(dense)


def _footnote(measured: Measured | None, predicted: Predicted | None) -> None:
    """Draw how the numbers came to be: a line in any case, so that nothing below it moves."""
    if measured is not None:
        words = (
            f"{measured.protocol.title}: {measured.pruned.quality.tokens:,} scored tokens, dense "
            "and pruned on the same windows in this process. Speed: prefill of one window."
        )
        if measured.leaked:
            words = f"**Calibration and measurement text overlap: these numbers flatter.** {words}"
    elif predicted is not None:
        words = "Predicted; parameters, memory and operations are counted exactly."
        if predicted.error is not None:
            words += (
                f" Half of all predicted increases of the loss are within "
                f"{percent(predicted.error, 0)} of the measured ones."
            )
    else:
        words = (
            "Parameters, memory and operations are counted exactly. Quality and speed are measured "
            "once the shape is let go."
        )
    st.caption(words)


def _note_on_sample(measured: Measured | None) -> None:
    """Draw what its card has no room for, if a task follows the slider: a line in any case."""
    sample = state.choice("sample")
    if sample is None:
        return
    title = TASKS[sample.task].title
    answers = measured.answered(sample) if measured else None
    if measured is None or answers is None:
        st.caption(f"{title}: {sample.items} items, asked once perplexity and speed are measured.")
        return
    right, delta = answers["pruned"]["acc"], answers["delta"]["acc"]
    st.caption(
        f"{title}, by likelihood (acc): {_between(right, '')} % of {answers['items']:,} of "
        f"{answers['of']:,} items, the same for both; {_between(delta, '+')} points. Next token "
        f"right: {percent(measured.pruned.quality.accuracy, 2)}."
    )


def _between(interval: Mapping[str, float], sign: str) -> str:
    """Return a share in percent with the ends of its interval: ``64.0 (50.0 to 78.0)``."""
    value, low, high = (f"{100 * interval[end]:{sign}.1f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
