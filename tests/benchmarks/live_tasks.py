"""What a task costs that follows a slider, against lm-eval's own path on the same items.

    PRUNESCOPE_DATA=... python -m tests.benchmarks.live_tasks [--task piqa] [--items 20]

On the demo model, for plans whose lowest changed layer is s:

    ratio = seconds(LiveTask.measure) / seconds(lm-eval's requests, in its own batches)

Both score the pruned model as it then stands; the dense answers of a live task are there from
before. Target: none beyond 1, for which it is there.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from pruning_core.evaluation.tasks import harness
from pruning_core.evaluation.tasks.accuracy import Selection, select
from pruning_core.evaluation.tasks.definitions import task
from pruning_core.evaluation.tasks.live import LiveTask
from pruning_core.model.loading import LoadedModel
from pruning_core.surgery.workbench import Workbench
from tests.benchmarks import measuring
from tests.benchmarks.resumed_evaluation import plans

STARTS = (0, 10, 20, 29)


def measure_start(
    loaded: LoadedModel, bench: Workbench, selection: Selection, start: int, repeats: int
) -> dict[str, Any]:
    """Return and print the ratio for plans whose lowest changed layer is `start`."""
    device = bench.model.device
    bench.restore()
    live = LiveTask(bench, loaded.tokenizer, selection)
    live.measure(None)
    places = [*range(len(selection.items))]
    asked = harness.Harness(
        selection.task, [selection.documents.rows[index] for index in selection.items]
    )
    wrapped = harness.wrapped(bench.model, loaded.tokenizer)
    fresh = plans(bench, start)

    def ours() -> float:
        bench.restore()
        plan = fresh()
        return measuring.seconds(lambda: live.measure(plan), device)

    # lm-eval asks whatever pruned model the measurement before it has left.
    ratio, took, theirs = measuring.sandwiched(
        ours, lambda: measuring.seconds(lambda: asked.votes(wrapped, places), device), repeats
    )
    print(f"{start:>10}{took:>10.3f}{theirs:>10.3f}  {ratio}", flush=True)
    return {
        "from_layer": start,
        "seconds": took,
        "lm_eval_seconds": theirs,
        "ratio": ratio.as_dict(),
    }


def main() -> None:
    """Print a row for each lowest changed layer."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--task", default="piqa")
        parser.add_argument("--items", type=int, default=20)

    given = measuring.options(__doc__, repeats=3, more=more)
    loaded = measuring.demo(given)
    bench = Workbench(loaded.model)
    selection = select(task(given.task), given.items, seed=0)
    print(
        f"{loaded.device} {loaded.dtype}, {torch.get_num_threads()} threads, "
        f"{len(selection.items)} items of {selection.task.title}"
    )
    print(f"{'from layer':>10}{'live s':>10}{'lm-eval s':>10}  ratio")
    rows = [measure_start(loaded, bench, selection, start, given.repeats) for start in STARTS]
    measuring.report(given, "live_tasks", str(loaded.device), rows)


if __name__ == "__main__":
    main()
