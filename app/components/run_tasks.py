"""Accuracy on tasks: what a run was asked beside the dense model, and the form that asks more."""

from __future__ import annotations

import streamlit as st

from app import state, task_figures, task_tables
from app.asking import Asked, Questions, Supply, elsewhere, supply
from app.components.polling import POLL_SECONDS, polled
from app.engine import ENGINE
from app.results import OnBench
from app.words import percent
from pruning_core.calibration import DATA_VARIABLE
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.intervals import LEVEL
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.history import SavedRun
from pruning_core.jobs import Job, State
from pruning_core.recipe import PatternKind

SAMPLE, FIRST, ALL = "A sample", "The first", "All"

USUAL = ("piqa", "arc_easy")
"""What is chosen at first: a small model is well above guessing there, and the items are short."""

USUAL_ITEMS, MOST_ITEMS = 100, 1_000_000
TITLES = 130
"""Width in pixels of the tasks' column."""

USUAL_SEED, HIGHEST_SEED = 0, 2**31
SLOWLY = 2 * POLL_SECONDS


def draw_tasks(model: OnBench, run: SavedRun) -> None:
    """Draw the section of one run of the model on the bench."""
    st.subheader("Accuracy on tasks")
    busy = state.job("tasks") is not None
    left, right = st.columns([5, 4], gap="medium")
    with left:
        polled(_draw_bars, running=busy, every=SLOWLY)(run, busy=busy)
    with right:
        _draw_form(model, run, busy=busy)
    polled(_draw_table, running=busy, every=SLOWLY)(run)


def _draw_bars(run: SavedRun, *, busy: bool) -> None:
    """Draw the answers as they are by now: a job adds to them task by task."""
    tasks = _present(run)
    if not tasks:
        st.info(
            "The answers to each task appear here as soon as both models have given them."
            if busy
            else f"{run.label} has not been asked any tasks yet. Choose some: the dense and the "
            "pruned model answer the same items, and the answers are kept with the run.",
            icon=":material/quiz:",
        )
        return
    metrics = task_tables.metrics_of(tasks)
    metric = metrics[0]
    if len(metrics) > 1:
        metric = st.segmented_control(
            "Answers chosen",
            metrics,
            default=metrics[0],
            format_func=lambda name: task_tables.METRICS.get(name, name),
            key="tasks-metric",
            required=True,
            persist_state="session",
            help="Long answers are unlikely because they are long: acc_norm divides by their "
            "length. Tasks of which that is not usual show acc.",
        )
    st.plotly_chart(
        task_figures.accuracies(task_tables.pairs(tasks, metric)),
        key="tasks-chart",
        config={"displayModeBar": False},
        alt=f"Right answers of the dense and the pruned model on {len(tasks)} tasks, by {metric}",
    )


def _draw_table(run: SavedRun) -> None:
    """Draw the numbers behind the bars, and why a task has none."""
    _draw_endings(run)
    tasks = _present(run)
    if not tasks:
        return
    share = st.column_config.NumberColumn(format="percent")
    points = st.column_config.NumberColumn
    st.dataframe(
        task_tables.asked_table(tasks),
        hide_index=True,
        column_config={
            "task": st.column_config.TextColumn(width=TITLES),
            "dense": share,
            "pruned": share,
            "difference": points("difference, points", format="%+.1f"),
            "from": points(format="%+.1f", help="Lower end of the difference's interval"),
            "to": points(format="%+.1f", help="Upper end of the difference's interval"),
        },
        alt="Answers of both models by task and metric, with the difference and its interval",
    )
    leaked = any(task.get("leaked") is True for task in tasks.values())
    st.caption(
        f"Intervals are {percent(LEVEL, 0)} bootstrap intervals over the items; the difference is "
        "paired, item by item, and beyond noise where its interval leaves out zero."
        + (" ⚠ calibrated on items that were asked: these numbers flatter." if leaked else "")
    )
    for name in tasks:
        if name in TASKS and TASKS[name].note:
            st.caption(f"{TASKS[name].title}: {TASKS[name].note}")


def _present(run: SavedRun) -> task_tables.Tasks:
    """Return a run's tasks as they are on the disk by now."""
    found = ENGINE.history.find(run.fingerprint, run.id)
    return found.tasks if found else {}


def _draw_endings(run: SavedRun) -> None:
    """Say what came to nothing when this tab last asked this run."""
    job = _last_of(run)
    if job is None:
        return
    asked = job.result or job.partial
    for name, why in asked.failed if isinstance(asked, Asked) else ():
        st.warning(f"**{TASKS[name].title} could not be asked.** {why}", icon=":material/block:")
    if job.state is State.FAILED:
        st.error(f"**Not all was asked.** {job.error}", icon=":material/error:")
    elif job.state is State.CANCELLED:
        st.info(
            "The asking was stopped. Whole tasks are with the run, and single answers are kept: "
            "ask the same again, and it goes on from there.",
            icon=":material/stop_circle:",
        )


def _last_of(run: SavedRun) -> Job[object] | None:
    """Return the last job of tasks that this tab started, if it is of a run."""
    jobs = [job for job in ENGINE.jobs.jobs(state.owner()) if job.kind == "tasks"]
    asked = (jobs[-1].result or jobs[-1].partial) if jobs else None
    return jobs[-1] if isinstance(asked, Asked) and asked.questions.run == run.id else None


def _draw_form(model: OnBench, run: SavedRun, *, busy: bool) -> None:
    """Draw what can be asked and the button; what forbids it is said in its place."""
    if why := elsewhere(run, model):
        st.warning(why, icon=":material/block:")
        return
    try:
        rows = supply()
    except PrunescopeError as error:
        st.warning(str(error), icon=":material/folder_off:")
        return
    if not rows.there:
        st.warning(_source_words(rows), icon=":material/folder_off:")
        return
    tasks = st.multiselect(
        "Tasks",
        rows.there,
        [name for name in USUAL if name in rows.there],
        format_func=lambda name: TASKS[name].title,
        key="tasks-asked",
        placeholder="choose tasks",
        disabled=busy,
        persist_state="session",
        help="Asked without examples, as lm-eval words them; the answer that is likeliest counts.",
    )
    limit, seed = _draw_items(busy)
    st.toggle(
        "Allow a leak",
        key=state.control("allow-leak", state.choice("allow_leak")),
        on_change=state.keep("allow_leak", "allow-leak"),
        disabled=busy,
        help="Ask items even if the recipe was calibrated on them. Their numbers are then marked: "
        "they flatter.",
    )
    pressed = st.button(
        "Ask both models",
        type="primary",
        icon=":material/quiz:",
        key="ask-tasks",
        disabled=busy or not tasks,
    )
    st.caption(" ".join((_source_words(rows), *_waiting_words(model, run, busy=busy))))
    # Not in a callback, which would have what the fields held when they were last drawn.
    if pressed:
        questions = Questions(
            run.fingerprint, run.id, tuple(tasks), limit, seed, state.choice("allow_leak")
        )
        state.submit(lambda: ENGINE.ask_tasks(state.owner(), questions))
        st.rerun()


def _draw_items(busy: bool) -> tuple[int | None, int | None]:
    """Draw which items are asked; return how many, None for all, and the seed of a sample."""
    kind = st.segmented_control(
        "Items of each task",
        [SAMPLE, FIRST, ALL],
        default=SAMPLE,
        key="tasks-items",
        required=True,
        disabled=busy,
        persist_state="session",
        help="Few items tell large losses from none only: the intervals say how far they go.",
    )
    if kind == ALL:
        return None, None
    first, second = st.columns(2)
    limit = first.number_input(
        "How many",
        1,
        MOST_ITEMS,
        USUAL_ITEMS,
        key="tasks-limit",
        disabled=busy,
        persist_state="session",
    )
    if kind == FIRST:
        return limit, None
    seed = second.number_input(
        "Seed",
        0,
        HIGHEST_SEED,
        USUAL_SEED,
        key="tasks-seed",
        disabled=busy,
        persist_state="session",
        help="Equal seeds draw equal items: runs asked with one seed can be compared.",
    )
    return limit, seed


def _source_words(rows: Supply) -> str:
    """Return in a sentence where rows come from, and of which tasks there are none."""
    if rows.folder is None:
        return (
            "The items come from the hub, fetched when a task is first asked; "
            f"`{DATA_VARIABLE}` can name a folder instead."
        )
    missing = ", ".join(TASKS[name].title for name in rows.missing)
    return f"The items come from `{rows.folder}`." + (f" Not there: {missing}." if missing else "")


def _waiting_words(model: OnBench, run: SavedRun, *, busy: bool) -> list[str]:
    """Return sentences on what has to wait for what."""
    if busy:
        return ["Tasks are being asked: the sidebar shows how far it is and stops it."]
    words = ["One task after the other; what else you ask for waits for one task at the most."]
    recipe = run.recipe
    made = recipe.pattern.kind is not PatternKind.STRUCTURED or ENGINE.map(
        model.fingerprint, recipe.scoring
    )
    if not made:
        words.append(
            f"The units of this run were ranked by {recipe.scoring.estimator}, which is worked out "
            "once more first."
        )
    return words
