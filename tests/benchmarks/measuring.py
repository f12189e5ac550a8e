"""What the benchmarks share: their options, timing that a shared machine can't fool, the report.

Two things are compared by running them in turns and taking the median of the ratios of neighbours,
so that a machine that is busy for a while slows both sides of a ratio alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruning_core.model.loading import LoadedModel, load
from pruning_core.runs import as_json, environment, write_text

_clock = time.perf_counter


def options(
    doc: str | None,
    repeats: int,
    growth: Sequence[str] = (),
    more: Callable[[argparse.ArgumentParser], None] = lambda _parser: None,
) -> argparse.Namespace:
    """Read the command line that all benchmarks have, and set the number of threads.

    Args:
        growth: pieces of work that a benchmark has a process of its own measure the memory of.
        more: adds what only one benchmark has.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float32")
    parser.add_argument("--repeats", type=int, default=repeats, help="pairs behind each ratio")
    parser.add_argument("--threads", type=int, help="threads on a CPU; torch's choice by default")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="for a machine that others use: one thread, seconds of CPU time instead of the wall's",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as well")
    parser.add_argument("--growth", choices=growth, help=argparse.SUPPRESS)
    more(parser)
    read = parser.parse_args()
    global _clock
    if read.busy:
        _clock = time.process_time
        torch.set_num_threads(1)
    elif read.threads:
        torch.set_num_threads(read.threads)
    return read


def demo(given: argparse.Namespace) -> LoadedModel:
    """Load the demo model as the options say."""
    return load("demo", device=given.device, dtype=given.dtype)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a piece of work takes, its kernels on an accelerator included."""
    synchronize(device)
    started = _clock()
    work()
    synchronize(device)
    return _clock() - started


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@dataclass(frozen=True)
class Ratio:
    """Ratios of neighbouring measurements: their median and quartiles."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one to quote."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, _, high = statistics.quantiles(self.values, n=4) if len(self.values) > 1 else [0] * 3
        return f"{self.median:.2f} ({low:.2f} to {high:.2f})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"median": self.median, "values": list(self.values)}


def sandwiched(
    ours: Callable[[], float], plain: Callable[[], float], repeats: int
) -> tuple[Ratio, float, float]:
    """Take plain, ours, plain, ours, ..., plain in turns after one unmeasured round.

    Args:
        ours, plain: do the work once and return the seconds it took.

    Returns:
        Ratios of each of ours to the mean of its two neighbours, and both medians in seconds.
    """
    plain(), ours()
    before, ratios, times, plains = plain(), [], [], []
    for _ in range(repeats):
        took, after = ours(), plain()
        ratios.append(2 * took / (before + after))
        times.append(took)
        plains.append(before)
        before = after
    return Ratio(tuple(ratios)), statistics.median(times), statistics.median(plains)


def report(given: argparse.Namespace, name: str, loaded_on: str, rows: Sequence[Any]) -> None:
    """Write the numbers with the machine they were taken on, where a file was asked for."""
    if given.json:
        numbers = {
            "benchmark": name,
            "device": loaded_on,
            "threads": torch.get_num_threads(),
            "rows": list(rows),
            "environment": environment(),
        }
        write_text(given.json, as_json(numbers))
