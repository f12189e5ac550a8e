"""How to train: a preset, what of it is changed, and the button that starts it or goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import streamlit as st

from app import state
from app.engine import ENGINE
from app.recoveries import Standing, Trained, Training, standing
from app.results import OnBench
from pruning_core.calibration import CORPORA, FILE_PREFIX, Split
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.protocol import protocol
from pruning_core.recipe import Recipe
from pruning_core.recovery.settings import LLM_PRUNER, PRESETS, QUICK, Settings


class Own(NamedTuple):
    """A kind of text that is named in a field of its own: what is said of it."""

    title: str
    label: str
    help: str


OWN = {
    FILE_PREFIX: Own(
        "a file of yours",
        "Path of the file",
        "On the machine that Prunescope runs on: text in UTF-8, or rows of instructions and "
        "answers where it ends in .json or .jsonl.",
    ),
    "hub:": Own(
        "a data set of the hub",
        "Name on the hub",
        "ORG/NAME of rows with 'instruction' and 'output', 'prompt' and 'response', or 'text'. A "
        "configuration may follow after a colon.",
    ),
}
"""By what stands before the name in a recovery's settings."""

PRESET_WORDS = {QUICK: "Quick", LLM_PRUNER: "LLM-Pruner"}
FIELD = 280
"""Width in pixels of what says on which text is trained."""

MOST_STEPS, HIGHEST_RANK = 1_000_000, 1024
FLOAT16 = (
    "A model in float16 can't be trained: its gradients are too small for that format. Load it in "
    "bfloat16 or float32 on the Model page; your recipe is kept."
)


def draw_choices(model: OnBench, recipe: Recipe, trained: Trained | None, *, busy: bool) -> None:
    """Draw the settings and the button; what cannot be trained is said in its place.

    Args:
        model: on the bench.
        recipe: whose plan is trained.
        trained: what a training of it came to, if there was one.
        busy: whether one is going on.
    """
    if model.dtype == "float16":
        st.warning(FLOAT16, icon=":material/block:")
        return
    try:
        training = Training(
            recipe,
            _draw_settings(busy),
            protocol(state.choice("probe")),
            model.dtype,
            state.choice("allow_leak"),
        )
    except PrunescopeError as error:
        st.warning(str(error), icon=":material/edit_off:")
        return
    if not busy:
        _draw_button(training, trained)


def _draw_settings(busy: bool) -> Settings:
    """Draw what can be chosen and return it.

    Raises:
        PrunescopeError: if it goes wrong together.
    """
    with st.container(horizontal=True):
        name = st.segmented_control(
            "Preset",
            list(PRESET_WORDS),
            default=QUICK,
            format_func=PRESET_WORDS.__getitem__,
            key="recover-preset",
            required=True,
            disabled=busy,
            persist_state="session",
            help="Quick: minutes on a CPU for a small model. LLM-Pruner: the recipe of the papers, "
            "two epochs of 50,000 instructions, for a GPU.",
        )
        usual = PRESETS[name]
        text = _draw_text(name, usual, busy)
    places = st.columns(4)
    # Every preset has widgets of its own: to choose another is not to lose what was set.
    steps = places[0].number_input(
        "Steps",
        1,
        MOST_STEPS,
        usual.steps,
        key=f"recover-steps-{name}",
        placeholder=f"{usual.epochs} epochs",
        disabled=busy,
        persist_state="session",
        help=f"Of {usual.batch} samples each. Where none are given, as many as {usual.epochs} "
        "epochs need: so often every sample is seen.",
    )
    rank = places[1].number_input(
        "Rank",
        1,
        HIGHEST_RANK,
        usual.rank,
        key=f"recover-rank-{name}",
        disabled=busy,
        persist_state="session",
        help="Of the updates: the higher, the more they can express, and the more memory and time "
        "they take.",
    )
    rate = places[2].number_input(
        "Learning rate",
        1e-7,
        1.0,
        usual.rate,
        1e-4,
        format="%g",
        key=f"recover-rate-{name}",
        disabled=busy,
        persist_state="session",
        help="At its highest, after the warm-up; then it falls to 0.",
    )
    distill = places[3].number_input(
        "Distilled, %",
        0,
        100,
        round(100 * usual.distill),
        10,
        key=f"recover-distill-{name}",
        disabled=busy,
        persist_state="session",
        help="Weight of the divergence from the dense model beside the loss of the text. More than "
        "0 runs the dense model as well: about a third more time.",
    )
    chosen = replace(
        usual, text=text, steps=steps, rank=rank or 0, rate=rate or 0, distill=(distill or 0) / 100
    )
    st.caption(
        f"Samples of at most {chosen.length} tokens, {chosen.batch} a step, {chosen.micro} at a "
        f"time; alpha {chosen.alpha}, dropout {chosen.dropout:g}, warm-up of {chosen.warmup} steps "
        f"at the most, seed {chosen.seed}. The probe is the tab's: "
        f"{protocol(state.choice('probe')).title}."
    )
    return chosen


def _draw_text(preset: str, usual: Settings, busy: bool) -> str:
    """Draw the choice of a text, and the field for its name where it is no corpus; return it.

    Raises:
        PrunescopeError: if it is not named.
    """
    corpora = [name for name, corpus in CORPORA.items() if Split.CALIBRATION in corpus.splits]
    texts = [*corpora, *OWN]
    prefix = next((prefix for prefix in OWN if usual.text.startswith(prefix)), "")
    chosen = st.selectbox(
        "Text",
        texts,
        texts.index(prefix or usual.text),
        format_func=lambda text: CORPORA[text].title if text in CORPORA else OWN[text].title,
        key=f"recover-text-{preset}",
        disabled=busy,
        persist_state="session",
        help="What is learned from.",
        width=FIELD,
    )
    if chosen not in OWN:
        return chosen
    own = OWN[chosen]
    named = st.text_input(
        own.label,
        usual.text.removeprefix(chosen) if chosen == prefix else "",
        key=f"recover-name-{chosen}-{preset}",
        disabled=busy,
        persist_state="session",
        help=own.help,
        width=FIELD,
    )
    if not (named or "").strip():
        raise PrunescopeError(f"Say what is learned from: the field {own.label!r} is empty.")
    return f"{chosen}{named.strip()}"


def _draw_button(training: Training, trained: Trained | None) -> None:
    """Draw the button, and what lies in the folder that it would go on with."""
    found = standing(training.folder)
    here = found.finished and trained is not None and trained.training.folder == training.folder
    lying = bool(found.steps or found.trouble)
    if found.trouble:
        st.warning(found.trouble, icon=":material/folder_off:")
    anew = lying and st.checkbox(
        "Begin anew: what was trained before goes",
        key=f"recover-anew-{training.folder.name}-{found.steps}",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            _label(found, here=here, anew=anew),
            type="primary",
            icon=":material/play_arrow:",
            key="recover",
            disabled=not anew and (here or bool(found.trouble)),
        )
        st.caption(_about(found, training, here=here))
    # Not in a callback, which would have what the fields held when they were last drawn.
    if pressed:
        wanted = replace(training, anew=anew)
        state.submit(lambda: ENGINE.recover(state.owner(), wanted))
        st.rerun()


def _label(found: Standing, *, here: bool, anew: bool) -> str:
    if anew or here or not found.steps:
        return "Train"
    return "Take it up again" if found.finished else f"Go on from step {found.steps}"


def _about(found: Standing, training: Training, *, here: bool) -> str:
    if here:
        return "This is trained: what it came to is below. Change a setting to train otherwise."
    if found.finished:
        return (
            f"It was trained before with these settings, {found.steps:,} steps: what was learned "
            f"is merged again from `{training.folder}`."
        )
    if found.steps:
        return f"It was stopped and goes on from step {found.steps:,}, in `{training.folder}`."
    return (
        f"Kept in `{training.folder}`: stopped or killed, it goes on from its last checkpoint when "
        "the same is started again."
    )
