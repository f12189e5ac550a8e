"""The cost side of a plan, measured beside dense: size, operations, memory of a pass, speed.

Counted: parameters, bytes, operations. Measured: tokens per second when it reads and when it
writes, in turns; on CUDA also what a pass takes beside the weights, which on a CPU nothing tells
apart from the rest of the process. Zeros that nothing skips make nothing faster, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pruning_core.evaluation.measurement import as_values
from pruning_core.evaluation.speed import Speeds, measure_speeds
from pruning_core.evaluation.two_four import Gain, measure_gains, obstacle, shapes_of
from pruning_core.evaluation.workload import Phase, Workload, forward_pass
from pruning_core.planning.plan import Cost, Plan, dense_cost
from pruning_core.progress import Tick, silent
from pruning_core.recipe import STRUCTURED, Pattern
from pruning_core.surgery.workbench import Workbench

TWO_FOUR = Pattern.parse("2:4")

TOKENS = (256, 2048)
"""Rows that 2:4 products are timed with."""


@dataclass(frozen=True)
class Costs:
    """What a plan costs beside the dense model.

    Attributes:
        pattern: what leaves.
        dense, pruned: counted.
        speeds: measured, one for each workload.
        pass_bytes: what a pass of the first workload takes beside the weights, dense and pruned;
            None where nothing tells.
        gains: what 2:4 kernels would gain at the model's shapes; empty where there are none.
    """

    pattern: Pattern
    dense: Cost
    pruned: Cost
    speeds: tuple[Speeds, ...]
    pass_bytes: tuple[int, int] | None
    gains: tuple[Gain, ...]

    @property
    def verdict(self) -> str:
        """What zeros do for speed, in a sentence; empty where whole units leave."""
        if self.pattern == STRUCTURED:
            return ""
        sentence = (
            "0 % faster and no smaller in memory: weights that became zero are stored and "
            "multiplied like any other."
        )
        if not self.gains:
            return sentence
        found = []
        for tokens in TOKENS:
            rows = [gain for gain in self.gains if gain.tokens == tokens]
            captured = sum(gain.count * gain.dense_captured_ms for gain in rows)
            captured /= sum(gain.count * gain.sparse_captured_ms for gain in rows)
            eager = sum(gain.count * gain.dense_ms for gain in rows)
            eager /= sum(gain.count * gain.sparse_ms for gain in rows)
            found.append(
                f"at {tokens:,} tokens {captured:.2f} times as fast inside a CUDA graph and "
                f"{eager:.2f} times called one by one"
            )
        return (
            f"{sentence} A runtime with torch's 2:4 kernels would multiply this model's matrices, "
            f"measured on this GPU, {'; '.join(found)}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "dense": vars(self.dense),
            "pruned": vars(self.pruned),
            "speeds": [
                {
                    **asdict(speeds.workload),
                    "phase": str(speeds.workload.phase),
                    "dense_tokens_per_second": speeds.dense,
                    "pruned_tokens_per_second": speeds.pruned,
                    "times": as_values(speeds.times),
                }
                for speeds in self.speeds
            ],
            "pass_bytes": None
            if self.pass_bytes is None
            else dict(zip(("dense", "pruned"), self.pass_bytes, strict=True)),
            "two_four": [asdict(gain) for gain in self.gains],
            "verdict": self.verdict,
        }


def measure_costs(
    bench: Workbench, plan: Plan, *, batch: int = 1, length: int = 512, tick: Tick = silent
) -> Costs:
    """Count and time a plan beside the dense model; the bench is left as it was.

    Args:
        batch, length: sequences at once, and tokens of each: read in the one workload, in the cache
            when one more is written in the other.

    Raises:
        Cancelled: by `tick`, before each pass.
        PrunescopeError: if the model has not so many positions, or the numbers are none to time at.
    """
    workloads = [Workload(phase, batch, length) for phase in Phase]
    speeds = tuple(measure_speeds(bench, plan, workload, tick) for workload in workloads)
    model, pattern = bench.model, plan.recipe.pattern
    gains: Sequence[Gain] = ()
    if pattern == TWO_FOUR and not obstacle(model.device, model.dtype):
        shapes = shapes_of(model, bench.anatomy)
        gains = measure_gains(shapes, TOKENS, model.device, model.dtype, tick)
    return Costs(
        pattern,
        dense_cost(bench.anatomy, bench.dense_bytes, length),
        plan.cost(bench.dense_bytes, length),
        speeds,
        _pass_bytes(bench, plan, workloads[0]),
        tuple(gains),
    )


@torch.no_grad()
def _pass_bytes(bench: Workbench, plan: Plan, workload: Workload) -> tuple[int, int] | None:
    device = bench.model.device
    if device.type != "cuda":
        return None
    taken = []
    with bench.given_back():
        for side in (None, plan):
            with bench.applied(side):
                forward = forward_pass(bench.model, workload)
                held = torch.cuda.memory_allocated(device)
                torch.cuda.reset_peak_memory_stats(device)
                forward()
                taken.append(torch.cuda.max_memory_allocated(device) - held)
    return taken[0], taken[1]
