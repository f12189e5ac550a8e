"""Measured speed: tokens per second of the pruned model beside the dense one, in turns.

A machine that does other work is slow for a while and quick again. So the two models take turns,
and what counts is the ratio of neighbours, with the interval that the turns give it.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pruning_core.evaluation.intervals import Interval, bootstrap
from pruning_core.evaluation.workload import Phase, Workload, check_length, forward_pass
from pruning_core.planning.plan import Plan
from pruning_core.progress import Tick, silent
from pruning_core.surgery.workbench import Workbench

TURNS = 5
"""How often each of the two is timed."""

TIMED = {Phase.PREFILL: 1, Phase.DECODE: 10}
"""Passes of a turn that are timed, after one that warms up; short ones are timed more often."""


@dataclass(frozen=True)
class Speeds:
    """Both models at one workload.

    Attributes:
        workload: what they were timed at.
        dense, pruned: tokens per second, the median over the turns.
        times: how many times as fast as dense the pruned model is; 1 is no gain.
    """

    workload: Workload
    dense: float
    pruned: float
    times: Interval


@torch.no_grad()
def measure_speeds(bench: Workbench, plan: Plan, workload: Workload, tick: Tick = silent) -> Speeds:
    """Time the dense model and the one that a plan makes of it; what was applied comes back.

    Every turn begins with a pass that warms up.

    Raises:
        Cancelled: by `tick`, before each pass.
        PrunescopeError: if the model has not so many positions.
    """
    check_length(bench.model, workload)
    passes = 1 + TIMED[workload.phase]
    total = 2 * TURNS * passes
    seconds: tuple[list[float], list[float]] = ([], [])
    with bench.given_back():
        for turn in range(2 * TURNS):
            with bench.applied(plan if turn % 2 else None):
                forward, taken = forward_pass(bench.model, workload), []
                for index in range(passes):
                    tick("timing", turn * passes + index, total, str(workload))
                    taken.append(_seconds(forward, bench.model.device))
            seconds[turn % 2].append(statistics.median(taken[1:]))
    tick("timing", total, total, str(workload))
    dense, pruned = (workload.tokens / statistics.median(found) for found in seconds)
    ratios = [math.log(before / after) for before, after in zip(*seconds, strict=True)]
    return Speeds(workload, dense, pruned, bootstrap(ratios).mapped(math.exp))


def _seconds(forward: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    forward()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - started
