"""Runs: everything that was measured, as a chart and a tree; restore, name, compare, delete."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit, urlunsplit

import streamlit as st

from app import run_figures, run_tables, state
from app.components.bench import require_model
from app.components.differences import (
    draw_between,
    draw_disagreements,
    draw_over_dense,
    over_dense_words,
)
from app.components.reports import draw_report
from app.components.run_tasks import draw_tasks
from app.engine import ENGINE
from app.results import OnBench
from app.words import change, count, percent, perplexity
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import perplexity_of
from pruning_core.history import Branch, Conditions, SavedRun, frontier, tree
from pruning_core.planning.plan import check_recipe
from pruning_core.recipe import PatternKind, SiteKey, SiteKind
from pruning_core.recipe_link import PARAMETER, encode


def saved_runs(model: OnBench) -> tuple[SavedRun, ...]:
    """Return the runs of a model; without any, say how they come to be and end the page here."""
    try:
        runs = ENGINE.history.runs(model.fingerprint)
        broken = ENGINE.history.unreadable(model.fingerprint)
    except PrunescopeError as error:
        st.error(str(error), icon=":material/error:")
        st.stop()
    if broken:
        with st.expander(f"Files that are no saved runs: {len(broken)}", icon=":material/warning:"):
            for file in broken:
                st.text(f"{file.path}\n{file.why}")
    if not runs:
        st.info(
            "There are no saved runs of this model yet. Whatever you measure on the Tune page is "
            "kept here, beside what it came of: change the sparsity of a layer there, and the "
            "first one appears.",
            icon=":material/account_tree:",
        )
        st.stop()
    return runs


def choose_conditions(runs: Sequence[SavedRun]) -> Conditions:
    """Draw the choice of how runs were measured: the chart shows those that were measured alike."""
    known = list(dict.fromkeys(run.conditions for run in reversed(runs)))
    kept = state.choice("conditions")
    chosen = kept if kept in known else known[0]
    if len(known) > 1:
        st.selectbox(
            "Measured by",
            known,
            key=state.control("conditions", chosen),
            format_func=_measured_words,
            on_change=state.keep("conditions", "conditions"),
            help="Numbers of different protocols, texts, devices or number formats can't be "
            "compared: they never share an axis.",
        )
    return chosen


def _measured_words(conditions: Conditions) -> str:
    return f"{conditions} · text {conditions.text[:6]}"


def draw_chart(runs: Sequence[SavedRun]) -> None:
    """Draw size against quality of runs that were measured alike; a click picks one."""
    points = {run.id: _point(run) for run in runs}
    newest = runs[-1]
    dense = run_figures.Point("", "dense", newest.dense_parameters, newest.dense_perplexity)
    best = [points[run.id] for run in frontier(runs)]
    st.plotly_chart(
        run_figures.quality_by_size(list(points.values()), best, dense),
        key="runs-chart",
        on_select=lambda: state.take_run("runs-chart"),
        selection_mode="points",
        config={"displayModeBar": False},
        alt=f"Perplexity against parameters of {len(runs)} runs, {len(best)} of them on the "
        "frontier",
    )
    overflowed = sum(not math.isfinite(run.perplexity) for run in runs)
    st.caption(
        "Lower and further left is better; nothing measured alike beats what is on the line. A "
        "square has zeroed weights, which count as gone though they take room; a cross was "
        "calibrated on the text it is measured on, and flatters."
        + (f" Not drawn: {overflowed} whose perplexity overflowed." if overflowed else "")
    )


def _point(run: SavedRun) -> run_figures.Point:
    zeros = run.recipe.pattern.kind is not PatternKind.STRUCTURED
    return run_figures.Point(
        run.id, run.label, run.parameters, run.perplexity, zeros=zeros, leaked=run.leaked
    )


def draw_run(model: OnBench, run: SavedRun, branches: Sequence[Branch]) -> None:
    """Draw one run: its numbers, and what can be done with it."""
    first, second, third = st.columns(3)
    over = run_tables.over_dense(run)
    first.metric(
        "Perplexity",
        perplexity(run.perplexity),
        f"{change(over)} to dense" if math.isfinite(over) else None,
        delta_color="inverse",
    )
    smaller = run.parameters / run.dense_parameters - 1 if run.dense_parameters else 0.0
    second.metric(
        "Parameters", count(run.parameters), f"{change(smaller)} to dense", delta_color="inverse"
    )
    third.metric("Sparsity", percent(run.sparsity), help="Of the prunable parameters")
    st.caption(
        f"{_measured_words(run.conditions)} · recipe {run.digest}"
        + over_dense_words(run)
        + _prediction_words(run)
    )
    st.text_input(
        "Name",
        key=state.control(f"name-{run.id}", run.name),
        max_chars=80,
        placeholder="without a name",
        on_change=state.moving(
            f"name-{run.id}",
            _attempting(lambda name: ENGINE.history.rename(run, name)),
        ),
    )
    with st.container(horizontal=True):
        draw_actions(model, run, branches)


def _prediction_words(run: SavedRun) -> str:
    if run.predicted_loss is None:
        return ""
    return f" · predicted perplexity {perplexity(perplexity_of(run.predicted_loss))}"


def draw_actions(model: OnBench, run: SavedRun, branches: Sequence[Branch]) -> None:
    """Draw the buttons that restore, hand out and delete a run."""

    def restore() -> None:
        check_recipe(run.recipe, model.fingerprint, model.anatomy)
        state.restore_run(model, run)

    st.button(
        "Restore",
        type="primary",
        icon=":material/restore:",
        key="restore-run",
        on_click=_attempting(restore),
        disabled=state.current_run() == run.id and state.recipe(model) == run.recipe,
        help="Its recipe becomes the present one; what you change and measure then branches off",
    )
    st.download_button(
        "JSON",
        lambda: json.dumps(run.values, indent=2),
        f"run-{run.id}.json",
        "application/json",
        key="download-run",
        icon=":material/download:",
        help="Recipe and numbers; the command line takes it with --recipe",
        on_click="ignore",
    )
    draw_report(run, [b.run for b in branches if b.run.conditions == run.conditions])
    with st.popover("Link", icon=":material/link:"):
        try:
            st.code(_link(encode(run.recipe)), language=None, wrap_lines=True)
        except PrunescopeError as error:
            st.text(str(error))
        else:
            st.caption("It carries the recipe, not the numbers: whoever opens it loads the model.")
    with st.popover("Delete", icon=":material/delete:"):
        branch = next(branch for branch in branches if branch.run.id == run.id)
        children = [b for b in branches if b.parent is not None and b.parent.id == run.id]
        above = f"under {branch.parent.label}" if branch.parent else "to the top"
        st.text(
            "This cannot be undone."
            + (f" What came of it ({len(children)}) moves {above}." if children else "")
        )
        parent = branch.parent.id if branch.parent else None
        st.button(
            "Delete this run",
            key="delete-run",
            on_click=_attempting(lambda: delete(model, run, parent)),
        )


def delete(model: OnBench, run: SavedRun, parent: str | None) -> None:
    """Delete a run; who works from it then works from its parent, where the page also turns."""
    ENGINE.history.delete(run)
    if state.current_run() == run.id:
        state.work_from(model, parent)
    state.remember("picked", parent)


def _attempting(work: Callable[..., object]) -> Callable[..., None]:
    """Return a callback that does some work, or says why it cannot be done."""

    def attempt(*values: str) -> None:
        try:
            work(*values)
        except PrunescopeError as error:
            state.warn(str(error))
        else:
            state.dismiss()

    return attempt


def _link(text: str) -> str:
    """Return the link to the app that carries a recipe; the page it is seen on does not matter."""
    here = urlsplit(st.context.url or "")
    path = here.path.removesuffix("/runs").rstrip("/") + "/"
    return urlunsplit((here.scheme, here.netloc, path, f"{PARAMETER}={text}", ""))


def draw_tree(branches: Sequence[Branch], picked: SavedRun) -> None:
    """Draw the tree as a table; a click on a row picks that run."""
    st.subheader("How they came of each other")
    rows = [branch.run.id for branch in branches]
    best = {run.id for run in frontier([branch.run for branch in branches])}

    def take(event: dict[str, dict[str, list[int]]]) -> None:
        if selected := event["selection"]["rows"]:
            state.remember("picked", rows[selected[0]])

    selection = {"rows": [rows.index(picked.id)], "columns": [], "cells": []}
    st.dataframe(
        run_tables.tree_table(branches, best, state.current_run()),
        key=state.control("run-tree", {"selection": selection}),
        on_select=state.moving("run-tree", take),
        selection_mode="single-row",
        hide_index=True,
        column_config={
            "sparsity": st.column_config.NumberColumn(format="percent"),
            "parameters": st.column_config.NumberColumn(format="localized"),
            "perplexity": st.column_config.NumberColumn(format="%.3f"),
            "over dense": st.column_config.NumberColumn(format="percent"),
            "when": st.column_config.DatetimeColumn(
                format="YYYY-MM-DD HH:mm", timezone=st.context.timezone
            ),
        },
        alt="The saved runs, each below the run it came of",
    )
    st.caption(
        "▶ what you work from · ★ on the frontier of those measured alike · ⚠ calibrated on the "
        "text it is measured on. An empty perplexity overflowed."
    )


def draw_comparison(model: OnBench, picked: SavedRun, branches: Sequence[Branch]) -> None:
    """Draw where another run's recipe differs from the picked one, layer by layer."""
    others = {branch.run.id: branch.run for branch in branches if branch.run.id != picked.id}
    if not others:
        return
    st.subheader("Two runs, layer by layer")
    parent = next(branch.parent for branch in branches if branch.run.id == picked.id)
    usual = parent.id if parent else next(iter(others))
    kept = state.choice("beside")
    chosen = kept if kept in others else usual
    st.selectbox(
        f"Beside {picked.label}",
        list(others),
        key=state.control("beside", chosen),
        format_func=lambda id: _run_words(others[id]),
        on_change=state.keep("beside", "beside"),
    )
    other = others[chosen]
    draw_between(picked, other)
    names = (picked.label, other.label if other.label != picked.label else f"{other.label} (2)")
    lanes = {
        kind: tuple(
            [recipe.at(SiteKey(layer, kind)) for layer in range(model.anatomy.layers)]
            for recipe in (picked.recipe, other.recipe)
        )
        for kind in SiteKind
    }
    attention, mlp = (lanes[kind] for kind in (SiteKind.ATTENTION, SiteKind.MLP))
    st.plotly_chart(
        run_figures.sparsities(names, (attention[0], attention[1]), (mlp[0], mlp[1])),
        key="two-runs",
        config={"displayModeBar": False},
        alt=f"Sparsity of every site in {names[0]} and {names[1]}",
    )
    sites = run_tables.site_differences(picked.recipe, other.recipe)
    rest = run_tables.other_differences(picked.recipe, other.recipe)
    left, right = st.columns(2)
    with left:
        _draw_differences(sites, names, "Every site has the same sparsity in both.")
    with right:
        _draw_differences(rest, names, "They differ in nothing but sparsity.")


def _draw_differences(table: run_tables.Table, names: tuple[str, str], none: str) -> None:
    if table.empty:
        st.text(none)
        return
    share = st.column_config.NumberColumn
    titles = {"first": names[0], "second": names[1]}
    config = {
        column: share(titles.get(column, column), format="percent")
        if column == "difference" or table[column].dtype == float
        else titles.get(column, column)
        for column in table.columns
    }
    st.dataframe(table, hide_index=True, column_config=config)


def _run_words(run: SavedRun) -> str:
    return (
        f"{run.label} · {percent(run.sparsity)} gone, perplexity {perplexity(run.perplexity)} · "
        f"{run.created.astimezone():%Y-%m-%d %H:%M}"
    )


bench = require_model()
everything = saved_runs(bench)
by_id = {run.id: run for run in everything}
wanted = (state.choice("picked"), state.current_run())
present = next((by_id[id] for id in wanted if id in by_id), everything[-1])
drawn = tree(everything)
left_side, right_side = st.columns([5, 4], gap="medium")
with left_side:
    chosen = choose_conditions(everything)
    alike = [run for run in everything if run.conditions == chosen]
    draw_chart(alike)
    draw_over_dense(alike)
    draw_disagreements(alike)
with right_side:
    st.selectbox(
        "Run",
        [run.id for run in reversed(everything)],
        key=state.control("picked", present.id),
        format_func=lambda id: _run_words(by_id[id]) if id in by_id else id,
        on_change=state.keep("picked", "picked"),
    )
    draw_run(bench, present, drawn)
draw_tree(drawn, present)
draw_tasks(bench, present)
draw_comparison(bench, present, drawn)
