"""How saved runs differ from dense and from each other, window by window: more than noise or not.

Only what was measured alike is compared: the same windows of the same text, on the same device in
the same number format. Everything else has no answer here rather than a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from pruning_core.evaluation.intervals import Interval, paired
from pruning_core.history import Pieces, SavedRun


class Disagreement(NamedTuple):
    """Two runs that two metrics rank differently."""

    better_perplexity: SavedRun
    better_task: SavedRun
    task: str
    metric: str


def over_dense(run: SavedRun) -> Interval | None:
    """Return how much a run's loss exceeds the dense model's, nats per token.

    None where its windows were not kept, or one overflowed.
    """
    return _paired(run.dense_pieces, run.pieces)


def between(run: SavedRun, other: SavedRun) -> Interval | None:
    """Return how much a run's loss exceeds another's, nats per token.

    None where they were not measured alike, or their windows were not kept.
    """
    if run.conditions != other.conditions:
        return None
    return _paired(other.pieces, run.pieces)


def disagreements(runs: Sequence[SavedRun]) -> list[Disagreement]:
    """Return pairs of runs of which one has the lower perplexity and the other more right answers.

    Both differences are beyond noise, or nothing is said: of the perplexities window by window, of
    a task by intervals that do not overlap, on the same items.
    """
    found = []
    for one, other in combinations(runs, 2):
        alike = _asked_alike(one, other)
        loss = between(one, other) if alike else None
        if loss is None or not loss.beyond_noise:
            continue
        better, worse = (one, other) if loss.value < 0 else (other, one)
        for task, metric in alike:
            low, high = (_ends(run, task, metric) for run in (better, worse))
            if low[1] < high[0]:
                found.append(Disagreement(better, worse, task, metric))
    return found


def _asked_alike(one: SavedRun, other: SavedRun) -> list[tuple[str, str]]:
    """Return the tasks and metrics that both runs have of the same items."""
    return [
        (task, metric)
        for task in one.tasks.keys() & other.tasks.keys()
        if all(
            one.tasks[task].get(key) == other.tasks[task].get(key)
            for key in ("sha256", "items", "sample", "scorer")
        )
        for metric in one.tasks[task]["pruned"]
    ]


def _ends(run: SavedRun, task: str, metric: str) -> tuple[float, float]:
    """Return the interval of a pruned model's answers; without one it overlaps with everything."""
    interval = run.tasks[task]["pruned"][metric]
    low, high = interval["low"], interval["high"]
    return (-math.inf if low is None else low), (math.inf if high is None else high)


@lru_cache(maxsize=1024)
def _paired(before: Pieces | None, after: Pieces | None) -> Interval | None:
    if before is None or after is None or before.tokens != after.tokens:
        return None
    return paired(before.losses, after.losses, before.tokens)
