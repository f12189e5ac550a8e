"""Resumed evaluation against one plain forward pass of the layers that had to run.

    python -m tests.benchmarks.resumed_evaluation [--device auto] [--json FILE]

The demo model is measured on the probe windows with every site from layer s upwards pruned by 20 %.

    ratio = seconds(LiveEvaluator.measure) / seconds(layers s ... L-1, final norm, head)

The upper side is all of a release of the mouse: applying the plan to the dense model, hidden states
out of the cache, the forward pass, perplexity and accuracy. The lower side is a loop over the very
same pruned layers, fed with the same hidden states in the same batches; it computes logits and
looks at none. Target: at most 1.15.

    apply, restore: milliseconds for a plan that changes every site. Target: at most 150.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from pruning_core.calibration import Split, load_text, measurement_windows
from pruning_core.evaluation.live import BATCH_TOKENS, LiveEvaluator
from pruning_core.evaluation.protocol import protocol
from pruning_core.model.forward import decoder_layers, recorded
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.recipe import Recipe
from pruning_core.surgery.workbench import Workbench
from tests.benchmarks import measuring
from tests.maps import random_map

STARTS = (0, 5, 15, 25, 29)
SPARSITY = 0.2
TARGET, APPLY_TARGET = 1.15, 150


class PlainPass:
    """The upper layers of a model in a bare loop, fed with what enters them in the dense model."""

    def __init__(self, bench: Workbench, windows: torch.Tensor, start: int) -> None:
        """Run the dense model once and keep what its layers are called with."""
        every = decoder_layers(bench.model, bench.anatomy)
        self.layers = every[start:]
        self.norm, self.head = bench.model.base_model.norm, bench.model.lm_head
        self.batches = []
        for ids in windows.split(BATCH_TOKENS // windows.shape[1]):
            caught: dict[str, Any] = {}

            hook = self.layers[0].register_forward_pre_hook(
                lambda _module, _args, kwargs, into=caught: into.update(kwargs), with_kwargs=True
            )
            with torch.no_grad(), recorded(every, [start]) as states:
                bench.model(input_ids=ids.to(bench.model.device), use_cache=False)
            hook.remove()
            caught.pop("hidden_states", None)
            self.batches.append((states[start], caught))

    @torch.no_grad()
    def run(self) -> None:
        """Compute the logits of every batch."""
        for hidden, kwargs in self.batches:
            for layer in self.layers:
                hidden = layer(hidden, **kwargs)
            self.head(self.norm(hidden))


def plans(bench: Workbench, start: int) -> Callable[[], Plan]:
    """Return a source of plans for the layers from `start`, none of which was seen before."""
    kept = {site.key: SPARSITY for site in bench.anatomy.sites if site.key.layer >= start}
    recipe = Recipe("demo", "abc").with_sparsity(kept)
    seeds = iter(range(10_000))
    return lambda: make_plan(recipe, random_map(bench.anatomy, next(seeds)), bench.anatomy)


def measure_start(
    bench: Workbench, windows: torch.Tensor, start: int, repeats: int
) -> dict[str, Any]:
    """Return the ratios for plans whose lowest changed layer is `start`."""
    device = bench.model.device
    bench.restore()
    plain = PlainPass(bench, windows, start)
    live = LiveEvaluator(bench, windows)
    live.measure(None)
    fresh = plans(bench, start)

    def ours() -> float:
        bench.restore()
        plan = fresh()
        return measuring.seconds(lambda: live.measure(plan), device)

    # The plain pass runs on whatever pruned layers the measurement before it has left.
    ratio, took, pass_took = measuring.sandwiched(
        ours, lambda: measuring.seconds(plain.run, device), repeats
    )
    return {
        "from_layer": start,
        "seconds": took,
        "plain_seconds": pass_took,
        "ratio": ratio.as_dict(),
        "text": f"{start:>10}{took:>10.3f}{pass_took:>10.3f}  {ratio}",
    }


def measure_apply(bench: Workbench, repeats: int) -> dict[str, float]:
    """Return the milliseconds that applying and restoring a whole-model plan take."""
    device = bench.model.device
    fresh = plans(bench, 0)
    apply, restore = [], []
    for _ in range(repeats + 1):
        bench.restore()
        plan = fresh()
        apply.append(1000 * measuring.seconds(lambda plan=plan: bench.apply(plan), device))
        restore.append(1000 * measuring.seconds(bench.restore, device))
    return {
        "apply_ms": statistics.median(apply[1:]),
        "restore_ms": statistics.median(restore[1:]),
    }


def main() -> None:
    """Print a row for each lowest changed layer."""
    given = measuring.options(__doc__, repeats=9)
    loaded = measuring.demo(given)
    bench = Workbench(loaded.model)
    probe = protocol("probe")
    text = load_text(probe.corpus, Split.MEASUREMENT)
    windows = measurement_windows(text, loaded.tokenizer, length=probe.window, limit=probe.limit)
    print(f"{loaded.device} {loaded.dtype}, {torch.get_num_threads()} threads, target {TARGET}")
    print(f"{'from layer':>10}{'live s':>10}{'plain s':>10}  ratio")
    rows = []
    for start in STARTS:
        rows.append(measure_start(bench, windows, start, given.repeats))
        print(rows[-1].pop("text"))
    moved = measure_apply(bench, given.repeats)
    print(
        f"whole-model plan: apply {moved['apply_ms']:.0f} ms, "
        f"restore {moved['restore_ms']:.0f} ms, target {APPLY_TARGET}"
    )
    measuring.report(given, "resumed_evaluation", str(loaded.device), [*rows, moved])


if __name__ == "__main__":
    main()
