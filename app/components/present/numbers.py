"""The large numbers: what a smaller model is, and what it is still good for."""

from __future__ import annotations

import streamlit as st

from app import state
from app.components.measuring import measure, measured_of, want_measured
from app.components.polling import polled
from app.components.present.verdict import Verdict, faster, fewer, shares, sizes, smaller, verdict
from app.engine import ENGINE
from app.results import Measured, OnBench, Sample
from app.words import percent, perplexity
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.recipe import Recipe

PENDING, TRYING = "…", "being tried out"
WIDTHS = (12, 9, 11, 14)
"""Of the numbers beside each other, by the longest words of each."""


def draw_numbers(model: OnBench, recipe: Recipe) -> None:
    """Have the recipe measured, and draw what is known so far."""
    want_measured(model, recipe)
    measuring = state.job("measure") is not None
    polled(_numbers, running=measuring)(model, recipe)
    # A measurement that was stopped or has failed is asked for again by hand only.
    if not measuring and measured_of(model, recipe) is None:
        st.button("Try it out", icon=":material/speed:", on_click=measure, args=(recipe,))


def _numbers(model: OnBench, recipe: Recipe) -> None:
    # The sidebar was drawn before this measurement was asked for and may not be watching it.
    state.refresh()
    measured = measured_of(model, recipe)
    sizes, right, speed, judged = st.columns(WIDTHS, gap="xsmall")
    with sizes:
        _size(model, recipe)
    with right:
        _right(measured)
    with speed:
        _speed(measured)
    with judged:
        _verdict(measured)
    if measured is not None and measured.leaked:
        st.warning(
            "The text of this test was also used to choose what leaves: the numbers flatter.",
            icon=":material/warning:",
        )


def _size(model: OnBench, recipe: Recipe) -> None:
    plan = ENGINE.plan(recipe)
    before = model.dense_bytes
    after = plan.cost(before, 1).bytes if plan else before
    words, colour = smaller(before, after)
    _number("Size", sizes(before, after), words, colour)


def _right(measured: Measured | None) -> None:
    """Draw how often the next word is right, or a task if one was chosen to follow the slider."""
    if (sample := state.choice("sample")) is not None:
        _answers(measured, sample)
        return
    label = "Next word right"
    if measured is None:
        _number(label, PENDING, TRYING)
        return
    before, after = measured.dense.quality.accuracy, measured.pruned.quality.accuracy
    words = fewer(before, after)
    _number(
        label,
        shares(before, after),
        words,
        _verdict_of(measured).colour if words.endswith("fewer") else "gray",
        help=f"The model reads {measured.pruned.quality.tokens:,} words and parts of words, one "
        "after the other, and says each time what it expects next. Differences of one in a hundred "
        "may be chance.",
    )


def _answers(measured: Measured | None, sample: Sample) -> None:
    title = TASKS[sample.task].title
    answers = measured.answered(sample) if measured else None
    if answers is None:
        failed = measured is not None and measured.sample == sample and measured.unasked
        _number(f"{title} right", PENDING, "could not be asked" if failed else TRYING)
        return
    before, after = (answers[side]["acc"]["value"] for side in ("dense", "pruned"))
    sure = answers["delta"]["acc"]["beyond_noise"] or before == after
    words = fewer(before, after) if sure else "may be chance"
    _number(
        f"{title} right",
        shares(before, after),
        words,
        "orange" if words.endswith("fewer") else "gray",
        help=f"Both models answer the same {answers['items']:,} questions of {title}, a public "
        f"test. Who guesses gets {percent(answers['chance'], 0)} right.",
    )


def _speed(measured: Measured | None) -> None:
    if measured is None or measured.speeds is None:
        _number("Speed", PENDING, TRYING)
        return
    # Where as much is computed as before, any difference between two timings is chance.
    same = measured.pruned.cost.operations == measured.dense.cost.operations
    words, colour = faster(1.0 if same else measured.speeds.times.value)
    _number(
        "Speed",
        words,
        "when it reads",
        colour,
        help="How fast it reads a text on this computer. Differences of a few per cent may be "
        "chance and count as no faster.",
    )


def _verdict(measured: Measured | None) -> None:
    if measured is None:
        _number("Verdict", PENDING, TRYING)
        return
    if not measured.sparsity:
        _number("Verdict", "The original", "nothing has left yet")
        return
    dense, pruned = measured.dense.quality, measured.pruned.quality
    words, colour = _verdict_of(measured)
    often = percent(pruned.accuracy / dense.accuracy, 0) if dense.accuracy else None
    _number(
        "Verdict",
        words,
        f"right {often} as often" if often else "the original is never right",
        colour,
        help=f"Perplexity {perplexity(pruned.perplexity)}, before {perplexity(dense.perplexity)}. "
        f"{measured.protocol.title}.",
    )


def _verdict_of(measured: Measured) -> Verdict:
    return verdict(measured.pruned.quality.perplexity, measured.dense.quality.perplexity)


def _number(
    label: str, value: str, words: str, colour: str = "gray", help: str | None = None
) -> None:
    st.metric(
        label,
        value,
        words,
        delta_color=colour,  # type: ignore[arg-type]
        delta_arrow="off",
        help=help,
        border=True,
        height="stretch",
    )
