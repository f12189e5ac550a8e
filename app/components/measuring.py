"""Have the present recipe measured as soon as it is there, and find what was measured of it."""

from __future__ import annotations

from app import state
from app.engine import ENGINE
from app.results import Measured, OnBench
from pruning_core.recipe import Recipe


def want_measured(model: OnBench, recipe: Recipe) -> None:
    """Measure a recipe, unless this tab has asked for that already, on whichever page."""
    choices = (state.choice("probe"), state.choice("sample"), state.choice("allow_leak"))
    wanted = (model.id, recipe, *choices)
    if state.choice("requested") != wanted:
        state.remember("requested", wanted)
        measure(recipe)


def measure(recipe: Recipe) -> None:
    """Measure a recipe on this tab's probe."""
    from pruning_core.evaluation.protocol import protocol

    state.submit(
        lambda: ENGINE.measure(
            state.owner(),
            recipe,
            protocol(state.choice("probe")),
            allow_leak=state.choice("allow_leak"),
            parent=state.current_run(),
            sample=state.choice("sample"),
        )
    )


def latest(model: OnBench) -> Measured | None:
    """Return the latest measurement of a model on this tab's probe, of whichever recipe."""
    job = state.job("measure")
    for candidate in (job and (job.result or job.partial), state.measured()):
        if (
            isinstance(candidate, Measured)
            and candidate.bench == model.id
            and candidate.protocol.name == state.choice("probe")
        ):
            return candidate
    return None


def measured_of(model: OnBench, recipe: Recipe) -> Measured | None:
    """Return the measurement of this very recipe, model and probe, if it is the latest."""
    found = latest(model)
    return found if found is not None and found.recipe == recipe else None
