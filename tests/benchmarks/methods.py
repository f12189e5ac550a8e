"""What scoring and pruning cost with each method, against a plain forward pass of the same text.

    python -m tests.benchmarks.methods [--only wanda,fine] [--device auto] [--json FILE]

On the demo model, with a few calibration windows that are drawn beforehand:

    ratio = seconds(method) / seconds(plain)

method: everything from the dense model to the pruned one and back. Where units leave, at 20 %:
scoring (with its own passes over the text, nothing remembered), the plan, applying and restoring
it. Where single weights leave, at 50 % unstructured: thinning, applying and restoring. plain: one
forward pass of every window, without gradients. No target: methods differ by what they do.

Estimators that train do so with a few steps, as their rows say; the time of training grows with
steps times batch. The first round of every pair is not measured, so a row takes twice its seconds
and more.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pruning_core.calibration import Split, calibration_windows, load_text
from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.registry import Estimator, Needs, estimators
from pruning_core.importance.scoring import score
from pruning_core.model.loading import LoadedModel
from pruning_core.planning.allocation import uniform
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.planning.thinning import places_for, thin
from pruning_core.recipe import STRUCTURED, Calibration, Pattern, PatternKind, Recipe, Scoring
from pruning_core.surgery.workbench import Workbench
from tests.benchmarks import measuring

CALIBRATION = Calibration(windows=4, length=256)
SPARSITIES = {STRUCTURED: 0.2, Pattern(PatternKind.UNSTRUCTURED): 0.5}
TRAINED = {"steps": 4, "batch": 1, "windows": CALIBRATION.windows}
"""The settings of estimators that train; by default they take hundreds of windows."""

NOTES = {"mutual-information": "compares channels pair by pair, slow without a GPU"}


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="NAMES", help="estimators, comma-separated")
    parser.add_argument("--device", default="auto", help="auto, cuda, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float32")
    parser.add_argument("--repeats", type=int, default=1, help="pairs behind each ratio")
    parser.add_argument("--threads", type=int, help="threads on a CPU; torch's choice by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as well")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    return given


def chosen(only: str | None) -> list[Estimator]:
    """Return the estimators that are timed.

    Raises:
        PrunescopeError: if one is named that there is not.
    """
    known = {method.name: method for method in estimators()}
    names = known if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise unknown_name("estimator", name, known)
    return [known[name] for name in names]


def recipe_for(
    loaded: LoadedModel, bench: Workbench, method: Estimator, pattern: Pattern
) -> Recipe:
    """Return the recipe that is timed: the same sparsity everywhere."""
    anatomy = bench.anatomy
    places = places_for(anatomy, method, pattern)
    settings = TRAINED if method.needs is Needs.TRAINING else {}
    scoring = Scoring(method.name, method.canonical(settings), CALIBRATION)
    recipe = Recipe(str(loaded.ref), loaded.fingerprint, scoring, pattern=pattern)
    return recipe.with_sparsity(uniform(places, SPARSITIES[pattern]))


def pruning(
    loaded: LoadedModel, bench: Workbench, recipe: Recipe, windows: torch.Tensor
) -> Callable[[], None]:
    """Return all that a recipe asks for, from the dense model and back to it."""

    def units() -> Plan:
        evidence = Evidence(loaded.model, bench.anatomy, lambda _count, _tick: windows)
        scores = score(recipe.scoring, evidence, loaded.fingerprint)
        return make_plan(recipe, scores, bench.anatomy)

    def weights() -> Plan:
        return thin(recipe, loaded.fingerprint, loaded.model, bench.anatomy, lambda: windows)

    choose = units if recipe.pattern == STRUCTURED else weights

    def run() -> None:
        bench.apply(choose())
        bench.restore()

    return run


@torch.no_grad()
def forward(loaded: LoadedModel, windows: torch.Tensor) -> None:
    """Run the model over every window."""
    for window in windows:
        loaded.model(input_ids=window[None].to(loaded.model.device), use_cache=False)


def measure(
    loaded: LoadedModel, bench: Workbench, recipe: Recipe, windows: torch.Tensor, repeats: int
) -> dict[str, Any]:
    """Return and print the ratio of one method under one pattern."""
    name, device = recipe.scoring.estimator, loaded.model.device
    work = pruning(loaded, bench, recipe, windows)
    ratio, ours, plain = measuring.sandwiched(
        lambda: measuring.seconds(work, device),
        lambda: measuring.seconds(lambda: forward(loaded, windows), device),
        repeats,
    )
    told = ", ".join(f"{setting}={value}" for setting, value in recipe.scoring.params)
    remark = NOTES.get(name, told)
    figures = f"{ours:>10.3f}{plain:>10.3f}{ratio.median:>10.2f}"
    print(f"{name:<20}{recipe.pattern!s:<14}{figures}  {remark}".rstrip(), flush=True)
    return {
        "estimator": name,
        "params": dict(recipe.scoring.params),
        "pattern": str(recipe.pattern),
        "sparsity": SPARSITIES[recipe.pattern],
        "seconds": ours,
        "plain_seconds": plain,
        "ratio": ratio.as_dict(),
    }


def main() -> None:
    """Print a row for every method and pattern."""
    given = options()
    try:
        methods = chosen(given.only)
    except PrunescopeError as error:
        raise SystemExit(str(error)) from error
    loaded = measuring.demo(given)
    bench = Workbench(loaded.model)
    windows = calibration_windows(
        load_text(CALIBRATION.corpus, Split.CALIBRATION),
        loaded.tokenizer,
        count=CALIBRATION.windows,
        length=CALIBRATION.length,
        seed=CALIBRATION.seed,
    )
    print(
        f"{loaded.device} {loaded.dtype}, {torch.get_num_threads()} threads, "
        f"{CALIBRATION.windows} windows of {CALIBRATION.length} tokens"
    )
    print(f"{'':<20}{'pattern':<14}{'seconds':>10}{'plain s':>10}{'ratio':>10}")
    rows = [
        measure(loaded, bench, recipe_for(loaded, bench, method, pattern), windows, given.repeats)
        for method in methods
        for pattern in SPARSITIES
        if method.follows(pattern.kind)
    ]
    measuring.report(given, "methods", str(loaded.device), rows)


if __name__ == "__main__":
    main()
