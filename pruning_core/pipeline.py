"""The whole way once, from a model to a measurement: load, score, plan, apply, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
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
from pruning_core.importance.map import ImportanceMap
from pruning_core.importance.registry import estimator
from pruning_core.importance.scoring import score
from pruning_core.model.anatomy import Anatomy
from pruning_core.model.loading import LoadedModel
from pruning_core.peak import peak_memory, restart_peak
from pruning_core.planning.plan import Plan, check_recipe, dense_cost
from pruning_core.planning.resolving import Resolver
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Calibration, PatternKind, Recipe, Scoring
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
    known: Mapping[Scoring, ImportanceMap] | None = None,
    allow_leak: bool = False,
    tick: Tick = silent,
) -> Run:
    """Prune a model and measure it beside its dense self; the model is dense again afterwards.

    Args:
        loaded: the dense model.
        recipe: what to do.
        protocol: how to measure.
        beside: other scorings to measure at the same sparsities, for comparison.
        known: importance maps of this model that have been made before.
        allow_leak: measure even though calibration and measurement text overlap, and mark it.
        tick: hears of every stage.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
        Cancelled: by `tick`.
    """
    recipes = [recipe, *(replace(recipe, scoring=scoring) for scoring in beside)]
    run, _maps = compare(loaded, recipes, protocol, known=known, allow_leak=allow_leak, tick=tick)
    return run


def compare(
    loaded: LoadedModel,
    recipes: Sequence[Recipe],
    protocol: Protocol,
    *,
    known: Mapping[Scoring, ImportanceMap] | None = None,
    allow_leak: bool = False,
    began: Callable[[Run], None] = lambda _run: None,
    heard: Callable[[Entry], None] = lambda _entry: None,
    tick: Tick = silent,
) -> tuple[Run, tuple[ImportanceMap | None, ...]]:
    """Measure recipes beside the dense model, which it is again afterwards.

    Args:
        loaded: the dense model.
        recipes: what to do, at least one.
        protocol: how to measure.
        known: importance maps of this model that have been made before.
        allow_leak: measure even though calibration and measurement text overlap, and mark it.
        began: is told the run, which has no entries yet, as soon as the dense model is measured.
        heard: is told each entry as soon as it is measured, before the next one is scored.
        tick: hears of every stage.

    Returns:
        The run, and the importance map that decided each of its entries, None where single weights
        leave: those are chosen without one.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
        Cancelled: by `tick`.
    """
    bench = Workbench(loaded.model)
    for recipe in recipes:
        check_recipe(recipe, loaded.fingerprint, bench.anatomy)
    text = load_text(protocol.corpus, Split.MEASUREMENT, tick)
    windows = measurement_windows(
        text, loaded.tokenizer, length=protocol.window, limit=protocol.limit, bos=protocol.bos
    )
    read = measured_part(text, windows, loaded.tokenizer)
    leaked = guard_recipes(recipes, read, allow=allow_leak, tick=tick)
    resolver = resolver_for(loaded, bench.anatomy, tick)
    drafts = _drafts(resolver, recipes, known or {})
    # Before anything is measured: a text that is too short, or too little memory, shows early.
    first = next(drafts)
    stages = {"loading": loaded.seconds}
    with _timed(stages, "measuring dense"):
        dense = measure_windows(loaded.model, windows, tick, "dense")
    run = Run(
        model=str(loaded.ref),
        fingerprint=loaded.fingerprint,
        device=str(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        protocol=protocol,
        text=(text.source, text.sha256),
        leaked=leaked,
        dense_cost=dense_cost(bench.anatomy, bench.dense_bytes, protocol.window),
        dense_quality=dense,
        entries=(),
        seconds=stages,
    )
    began(run)
    entries, maps = [], []
    for draft in chain([first], drafts):
        entries.append(_carry_out(resolver, bench, draft, windows, tick))
        maps.append(draft.scores)
        heard(entries[-1])
    return replace(run, entries=tuple(entries)), tuple(maps)


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
        if recipe.repair or estimator(recipe.scoring.estimator).needs.text
    }
    texts = [read(corpus, Split.CALIBRATION, tick) for corpus in sorted(corpora)]
    return any(guard(text, measured, allow=allow) for text in texts)


def resolver_for(loaded: LoadedModel, anatomy: Anatomy, tick: Tick = silent) -> Resolver:
    """Return what resolves recipes for a model; recipes on the same text share what is seen of it.

    Args:
        tick: hears of what is read and looked at.
    """
    evidence: dict[Calibration, Evidence] = {}

    def looking(calibration: Calibration) -> Evidence:
        if calibration not in evidence:
            evidence[calibration] = evidence_for(
                loaded.model, loaded.tokenizer, anatomy, calibration, tick
            )
        return evidence[calibration]

    return Resolver(loaded.model, anatomy, loaded.fingerprint, loaded.model.get_parameter, looking)


@dataclass(frozen=True)
class _Draft:
    """A recipe that waits to be carried out, and what has come of it so far.

    `scores` is None where single weights leave: which ones depends on how many, so they are chosen
    when it is their turn.
    """

    recipe: Recipe
    scores: ImportanceMap | None
    seconds: dict[str, float]
    peak: dict[str, int]


def _drafts(
    resolver: Resolver, recipes: Sequence[Recipe], known: Mapping[Scoring, ImportanceMap]
) -> Iterator[_Draft]:
    """Make the importance map of each recipe when it is its turn; the model is dense then."""
    maps = dict(known)
    for recipe in recipes:
        seconds: dict[str, float] = {}
        scores = None
        evidence = resolver.evidence(recipe.scoring.calibration)
        restart_peak()
        if recipe.pattern.kind is PatternKind.STRUCTURED:
            with _timed(seconds, "scoring"):
                if recipe.scoring not in maps:
                    maps[recipe.scoring] = score(recipe.scoring, evidence, resolver.fingerprint)
                scores = maps[recipe.scoring]
        yield _Draft(recipe, scores, seconds, peak_memory())


def _carry_out(
    resolver: Resolver, bench: Workbench, draft: _Draft, windows: torch.Tensor, tick: Tick
) -> Entry:
    """Plan, apply and measure; the model is dense again afterwards."""
    recipe, seconds = draft.recipe, draft.seconds
    restart_peak()
    with _timed(seconds, "planning"):
        if draft.scores is not None:
            plan: Plan = resolver.units(recipe, draft.scores, tick)
        else:
            plan = resolver.weights(recipe, tick)
    peak = {name: max(draft.peak[name], value) for name, value in peak_memory().items()}
    try:
        with _timed(seconds, "applying"):
            bench.apply(plan)
        with _timed(seconds, "measuring"):
            quality = measure_windows(bench.model, windows, tick, recipe.scoring.estimator)
    finally:
        bench.restore()
    cost = plan.cost(bench.dense_bytes, windows.shape[1])
    return Entry(plan.without_tensors(), cost, quality, seconds, peak)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
