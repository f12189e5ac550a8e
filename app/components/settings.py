"""Controls drawn from declarations: the calibration, and an estimator's parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import streamlit as st

from app import state
from pruning_core.calibration import CORPORA, FILE_PREFIX, Split
from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Calibration, Scalar

if TYPE_CHECKING:
    from pruning_core.importance.registry import Estimator, Parameter

OWN_FILE = "a text file of yours"
IN_A_ROW = 5
"""Controls side by side; more of them would have no room for their numbers."""


def calibration_controls() -> None:
    """Draw the choice of calibration text, windows, length and seed."""
    present = state.calibration()
    names = [name for name, corpus in CORPORA.items() if Split.CALIBRATION in corpus.splits]
    own = present.corpus.startswith(FILE_PREFIX)
    corpus, windows, length, seed = st.columns([2, 1, 1, 1])
    corpus.selectbox(
        "Calibration text",
        [*names, OWN_FILE],
        key=state.control("corpus", OWN_FILE if own else present.corpus),
        format_func=lambda name: CORPORA[name].title if name in CORPORA else name,
        on_change=state.moving("corpus", _take_corpus),
    )
    for place, name, label, low, high in (
        (windows, "windows", "Windows", 1, 512),
        (length, "length", "Tokens each", 8, 4096),
        (seed, "seed", "Seed", 0, 2**31),
    ):
        place.number_input(
            label,
            low,
            high,
            key=state.control(f"calibration-{name}", getattr(present, name)),
            on_change=state.moving(f"calibration-{name}", _take_number(name)),
        )
    if own:
        st.text_input(
            "Path of the text file",
            key=state.control("corpus-path", present.corpus.removeprefix(FILE_PREFIX)),
            on_change=state.moving("corpus-path", lambda path: _set_corpus(FILE_PREFIX + path)),
        )


def _take_corpus(chosen: str) -> None:
    _set_corpus(FILE_PREFIX if chosen == OWN_FILE else chosen)


def _set_corpus(corpus: str) -> None:
    state.set_calibration(replace(state.calibration(), corpus=corpus))


def _take_number(name: str) -> Callable[[float], None]:
    def take(value: float) -> None:
        try:
            present = {**asdict(state.calibration()), name: int(value)}
            state.set_calibration(Calibration(**present))
        except PrunescopeError as error:
            state.warn(str(error))

    return take


def parameter_controls(estimator: Estimator, then: Callable[[], None] | None = None) -> None:
    """Draw one control for each parameter an estimator declares; `then` hears of a change."""
    values = dict(state.scoring(estimator.name).params)
    declared = estimator.parameters
    for start in range(0, len(declared), IN_A_ROW):
        places = st.columns(min(len(declared), IN_A_ROW))
        for place, parameter in zip(places, declared[start:], strict=False):
            value = values.get(parameter.name, parameter.default)
            _draw(place, estimator.name, parameter, value, then)


def _draw(
    place: st.delta_generator.DeltaGenerator,
    estimator: str,
    parameter: Parameter,
    value: Scalar,
    then: Callable[[], None] | None,
) -> None:
    name = f"setting-{estimator}-{parameter.name}"
    key = state.control(name, value)
    label = parameter.name.capitalize()

    def set_it(value: Scalar) -> None:
        state.set_setting(estimator, parameter.name, value)
        if then:
            then()

    take = state.moving(name, set_it)
    if parameter.choices:
        place.selectbox(label, parameter.choices, key=key, help=parameter.help, on_change=take)
    elif isinstance(value, bool):
        place.toggle(label, key=key, help=parameter.help, on_change=take)
    elif isinstance(value, int | float):
        kind = type(value)
        low = None if parameter.low is None else kind(parameter.low)
        high = None if parameter.high is None else kind(parameter.high)
        place.number_input(label, low, high, key=key, help=parameter.help, on_change=take)
    else:
        place.text_input(label, key=key, help=parameter.help, on_change=take)
