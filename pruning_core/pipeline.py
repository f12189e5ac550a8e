"""The whole way once, from a model to a measurement: load, score, plan, apply, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from pruning_core.calibration import (
    Split,
    Text,
    guard,
    load_text,
    measured_part,
    measurement_windows,
)
from pruning_core.evaluation.perplexity import measure_windows
from pruning_core.evaluation.protocol import Protocol
from pruning_core.importance.evidence import Evidence, evidence_for
from pruning_core.importance.registry import estimator
from pruning_core.importance.scoring import score
from pruning_core.model.loading import LoadedModel
from pruning_core.planning.plan import Plan, check_recipe, dense_cost, make_plan
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Calibration, Recipe, Scoring
from pruning_core.runs import Entry, Run
from pruning_core.surgery.workbench import Workbench

ReadText: TypeAlias = Callable[[str, Split, Tick], Text]
"""What reads a text by the name of its corpus: `load_text`, or one that remembers what it read."""


def prune(
    loaded: LoadedModel,
    recipe: Recipe,
    protocol: Protocol,
    *,
    beside: Sequence[Scoring] = (),
    allow_leak: bool = False,
    tick: Tick = silent,
) -> Run:
    """Prune a model and measure it beside its dense self; the model is dense again afterwards.

    Args:
        loaded: the dense model.
        recipe: what to do.
        protocol: how to measure.
        beside: other scorings to measure at the same sparsities, for comparison.
        allow_leak: measure even though calibration and measurement text overlap, and mark it.
        tick: hears of every stage.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
        Cancelled: by `tick`.
    """
    bench = Workbench(loaded.model)
    check_recipe(recipe, loaded.fingerprint, bench.anatomy)
    recipes = [recipe, *(replace(recipe, scoring=scoring) for scoring in beside)]
    text = load_text(protocol.corpus, Split.MEASUREMENT, tick)
    windows = measurement_windows(
        text, loaded.tokenizer, length=protocol.window, limit=protocol.limit, bos=protocol.bos
    )
    read = measured_part(text, windows, loaded.tokenizer)
    leaked = guard_recipes(recipes, read, allow=allow_leak, tick=tick)
    drafts = _score_and_plan(loaded, bench, recipes, tick)
    stages = {"loading": loaded.seconds}
    with _timed(stages, "measuring dense"):
        dense = measure_windows(loaded.model, windows, tick, "dense")
    try:
        entries = tuple(_measure(bench, draft, windows, tick) for draft in drafts)
    finally:
        bench.restore()
    return Run(
        model=str(loaded.ref),
        fingerprint=loaded.fingerprint,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        protocol=protocol,
        text=(text.source, text.sha256),
        leaked=leaked,
        dense_cost=dense_cost(bench.anatomy, bench.dense_bytes, protocol.window),
        dense_quality=dense,
        entries=entries,
        seconds=stages,
    )


def guard_recipes(
    recipes: Sequence[Recipe],
    measured: Text,
    *,
    allow: bool,
    tick: Tick = silent,
    read: ReadText = load_text,
) -> bool:
    """Return whether any recipe was calibrated on the text it is to be measured on.

    Args:
        recipes: those to be measured; what looks at no text can have seen none.
        measured: what is really measured, see `measured_part`: a few windows out of a large corpus
            may all lie in a calibration text that the corpus as a whole has little in common with.
        allow: overlap is no error, only told.
        tick: hears of texts that are read.
        read: reads a calibration text.

    Raises:
        PrunescopeError: if one was, and that is not allowed.
        Cancelled: by `tick`.
    """
    corpora = {
        recipe.scoring.calibration.corpus
        for recipe in recipes
        if estimator(recipe.scoring.estimator).needs.text
    }
    texts = [read(corpus, Split.CALIBRATION, tick) for corpus in sorted(corpora)]
    return any(guard(text, measured, allow=allow) for text in texts)


@dataclass(frozen=True)
class _Draft:
    """A plan that waits to be measured, and the time it took so far."""

    plan: Plan
    seconds: dict[str, float]


def _score_and_plan(
    loaded: LoadedModel, bench: Workbench, recipes: Sequence[Recipe], tick: Tick
) -> list[_Draft]:
    evidence: dict[Calibration, Evidence] = {}
    drafts = []
    for recipe in recipes:
        seconds: dict[str, float] = {}
        calibration = recipe.scoring.calibration
        # Recipes on the same text share its gradients, so the first of them pays for all.
        if calibration not in evidence:
            evidence[calibration] = evidence_for(
                loaded.model, loaded.tokenizer, bench.anatomy, calibration, tick
            )
        with _timed(seconds, "scoring"):
            scores = score(recipe.scoring, evidence[calibration], loaded.fingerprint)
        with _timed(seconds, "planning"):
            plan = make_plan(recipe, scores, bench.anatomy)
        drafts.append(_Draft(plan, seconds))
    return drafts


def _measure(bench: Workbench, draft: _Draft, windows: torch.Tensor, tick: Tick) -> Entry:
    with _timed(draft.seconds, "applying"):
        bench.apply(draft.plan)
    with _timed(draft.seconds, "measuring"):
        note = draft.plan.recipe.scoring.estimator
        quality = measure_windows(bench.model, windows, tick, note)
    cost = draft.plan.cost(bench.dense_bytes, windows.shape[1])
    return Entry(draft.plan, cost, quality, draft.seconds)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
