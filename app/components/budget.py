"""Ask for a budget, and get the best shape under it around what is locked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import streamlit as st

from app import run_figures, state
from app.components.curves import gather_button, known_of
from app.engine import ENGINE
from app.results import OnBench
from app.run_figures import Point
from app.words import change, count, percent, perplexity, size
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import perplexity_of
from pruning_core.evaluation.protocol import protocol
from pruning_core.planning.budget import BudgetKind, Limits
from pruning_core.planning.search import Terms, best_shape, best_shapes
from pruning_core.recipe import STRUCTURED, Recipe, SiteKind

if TYPE_CHECKING:
    from pruning_core.evaluation.workload import Workload
    from pruning_core.planning.plan import Plan
    from pruning_core.planning.prediction import Predictor
    from pruning_core.planning.search import Shape

KINDS = {
    BudgetKind.PARAMETERS: "Parameters",
    BudgetKind.BYTES: "Memory",
    BudgetKind.OPERATIONS: "Operations / token",
    BudgetKind.LATENCY: "Milliseconds / token",
    BudgetKind.PERPLEXITY: "Ceiling on perplexity",
}
MULTIPLES = (1, 8, 16, 32, 64, 128)
FRONTIER = [share / 100 for share in range(40, 101, 5)]


def draw_budget(model: OnBench, recipe: Recipe, _plan: Plan | None) -> None:
    """Draw what can be asked for, the shape that was found, and the frontier."""
    known = known_of(recipe)
    predictor = known.predictor if known else None
    if predictor is None:
        st.caption(
            "Shapes are found by what each site costs, which is not known yet for this way to rank "
            "units and this probe."
        )
        gather_button(model, recipe)
        return
    asking, answer = st.columns([1, 1], gap="large")
    with asking:
        terms = _ask(model, predictor)
        gather_button(model, recipe)
    with answer:
        if terms is not None:
            _answer(model, recipe, terms, predictor)
    if terms is not None and terms.kind is BudgetKind.PARAMETERS:
        _frontier(model, recipe, terms, predictor)


def _ask(model: OnBench, predictor: Predictor) -> Terms | None:
    """Draw the form; None while what it asks for has to be measured first."""
    kind = BudgetKind(state.choice("budget"))
    st.selectbox(
        "Budget",
        list(KINDS),
        key=state.control("budget", kind),
        format_func=lambda name: KINDS[BudgetKind(name)],
        on_change=state.keep("budget", "budget"),
    )
    multiple = state.choice("multiple")
    latency = None
    if kind is BudgetKind.LATENCY:
        workload = _ask_workload()
        latency = ENGINE.latency(model.fingerprint, workload, multiple)
    if kind is BudgetKind.PERPLEXITY:
        dense = math.exp(predictor.dense)
        _number("Perplexity, as a multiple of dense", "ceiling", 1.01, 100.0, 0.05)
        highest = perplexity(dense * state.choice("ceiling"))
        st.caption(f"At most {highest}; dense {perplexity(dense)}")
    else:
        st.slider(
            "Percent of the dense model",
            10,
            100,
            key=state.control("budget-share", state.choice("budget_share")),
            format="%d%%",
            on_change=state.keep("budget_share", "budget-share"),
        )
    left, middle, right = st.columns(3, vertical_alignment="bottom")
    left.selectbox(
        "Channels in multiples of",
        MULTIPLES,
        key=state.control("multiple", multiple),
        on_change=state.keep("multiple", "multiple"),
        help="Kernels like round numbers: 8, 64 or 128 on a GPU",
    )
    with middle:
        _number("MLPs keep at least, %", "keep_mlp", 0, 100, 5)
    with right:
        _number("Attention keeps at least, %", "keep_attention", 0, 100, 5)
    st.toggle(
        "Whole sites may leave",
        key=state.control("may-remove", state.choice("may_remove")),
        on_change=state.keep("may_remove", "may-remove"),
        help="An attention or an MLP that loses every unit is skipped",
    )
    if kind is BudgetKind.LATENCY and latency is None:
        st.caption("How long each width takes has not been measured on this device yet.")
        st.button(
            "Measure milliseconds",
            key="measure-latency",
            icon=":material/timer:",
            disabled=state.job("latency") is not None,
            on_click=lambda: state.submit(
                lambda: ENGINE.measure_latency(state.owner(), model.fingerprint, workload, multiple)
            ),
        )
        return None
    limits = Limits(
        {
            SiteKind.MLP: state.choice("keep_mlp") / 100,
            SiteKind.ATTENTION: state.choice("keep_attention") / 100,
        },
        multiple,
        state.choice("may_remove"),
    )
    terms = Terms(
        kind,
        math.exp(predictor.dense) * state.choice("ceiling"),
        limits=limits,
        tokens=protocol(state.choice("probe")).window,
        dense_bytes=model.dense_bytes,
        latency=latency,
    )
    if kind is BudgetKind.PERPLEXITY:
        return terms
    return replace(terms, budget=terms.dense(model.anatomy) * state.choice("budget_share") / 100)


def _ask_workload() -> Workload:
    from pruning_core.evaluation.workload import Phase, Workload

    phase, batch, length = st.columns(3)
    phase.selectbox(
        "Phase",
        list(Phase),
        key=state.control("phase", Phase(state.choice("phase"))),
        on_change=state.keep("phase", "phase"),
        help="Prefill reads a prompt at once; decode writes token by token",
    )
    with batch:
        _number("Batch", "batch", 1, 512, 1)
    with length:
        _number("Length", "length", 1, 32768, 64)
    return Workload(Phase(state.choice("phase")), state.choice("batch"), state.choice("length"))


def _number(label: str, name: str, least: float, most: float, step: float) -> None:
    st.number_input(
        label,
        least,
        most,
        step=step,
        key=state.control(name, state.choice(name)),
        on_change=state.keep(name, name),
    )


def _answer(model: OnBench, recipe: Recipe, terms: Terms, predictor: Predictor) -> None:
    """Draw the shape that was found, beside the present one."""
    try:
        shape = best_shape(terms, predictor, recipe, model.anatomy)
    except PrunescopeError as error:
        st.warning(str(error), icon=":material/block:")
        return
    wanted = recipe.with_sparsity(shape.sparsity)
    plan = ENGINE.plan(wanted)
    with st.container(horizontal=True):
        st.metric("Predicted perplexity", perplexity(_perplexity(predictor, shape)), border=True)
        if plan is not None:
            cost = plan.cost(model.dense_bytes, terms.tokens)
            _cost_metric("Parameters", cost.parameters, model.anatomy.parameters, count)
            _cost_metric("Memory", cost.bytes, model.dense_bytes, size)
        if terms.kind is BudgetKind.LATENCY:
            dense = terms.dense(model.anatomy)
            _cost_metric("Milliseconds / token", shape.cost, dense, lambda ms: f"{ms:.3f}")
    st.button(
        "Use this shape",
        key="use-shape",
        type="primary",
        icon=":material/check:",
        disabled=wanted == recipe,
        on_click=lambda: state.change(model, wanted),
    )
    words = [f"At most {percent(max(shape.gap, 1e-5), 3)} from the best by the sites' curves."]
    if recipe.locks:
        words.append(f"Locked sites stay as they are: {len(recipe.locks)}.")
    if predictor.error is not None:
        words.append(f"Typical error of a predicted increase: {percent(predictor.error, 0)}.")
    st.caption(" ".join(words))


def _perplexity(predictor: Predictor, shape: Shape) -> float:
    return perplexity_of(predictor.dense + shape.increase)


def _measured(model: OnBench) -> list[Point]:
    """Return the saved runs that were measured as this tab measures now."""
    here = (state.choice("probe"), model.device, model.dtype)
    return [
        Point(run.id, run.label, run.parameters, run.perplexity)
        for run in ENGINE.history.runs(model.fingerprint)
        if (run.conditions.protocol, run.conditions.device, run.conditions.dtype) == here
        and run.recipe.pattern == STRUCTURED
    ]


def _cost_metric(label: str, value: float, dense: float, words: Callable[[float], str]) -> None:
    st.metric(label, words(value), change(value / dense - 1), delta_color="inverse", border=True)


def _frontier(model: OnBench, recipe: Recipe, terms: Terms, predictor: Predictor) -> None:
    """Draw the best predicted quality at every size, with the runs that were measured."""
    whole = terms.dense(model.anatomy)
    shapes = best_shapes(
        terms, predictor, recipe, model.anatomy, [whole * share for share in FRONTIER]
    )
    predicted = [
        Point("", "predicted best", round(shape.cost), _perplexity(predictor, shape))
        for shape in shapes
    ]
    st.plotly_chart(
        run_figures.predicted_frontier(predicted, _measured(model)),
        key="predicted-frontier",
        config={"displayModeBar": False},
        alt="The best predicted perplexity at every size, and the measured runs",
    )
