"""What the learned fusion is worth: the damage it leaves over that of the better granularity.

    PRUNESCOPE_DATA=... python -m tests.benchmarks.fusion [--json FILE]

    damage = log(perplexity pruned / perplexity dense)
    ratio  = damage(hybrid) / min(damage(fine), damage(coarse))

Calibrated on one corpus, measured on another; every site loses the same share, or with --lane mlp
every MLP while attention stays dense, and with --ends N the layers between N dense ones at either
end; means over the calibration seeds of the damages, then the ratio. Target: at most 0.85 at every
sparsity. Learning takes ten minutes a seed on two cores; with --each the fusion learns anew for
every sparsity, around what its sites lose there.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from pruning_core.evaluation.protocol import protocol
from pruning_core.importance.registry import estimator
from pruning_core.model.anatomy import read_anatomy
from pruning_core.model.loading import load
from pruning_core.pipeline import compare
from pruning_core.planning.allocation import overall, protected_ends, uniform, unit_places
from pruning_core.recipe import Calibration, Recipe, Scoring, SiteKind
from pruning_core.runs import Entry, as_json, environment, write_text

NAMES = ("hybrid", "fine", "coarse")
TARGET = 0.85


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default="c4", help="calibration text")
    parser.add_argument("--protocol", default="wikitext2")
    parser.add_argument("--limit", type=int, default=8, help="windows that are measured")
    parser.add_argument("--seeds", default="0,1,2", help="of the calibrations, comma-separated")
    parser.add_argument("--sparsities", default="0.2,0.35,0.5")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--each", action="store_true", help="learn anew for every sparsity")
    parser.add_argument("--lane", choices=[*SiteKind], help="what leaves; both by default")
    parser.add_argument("--ends", type=int, default=0, help="layers that stay dense at either end")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float32")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def scoring(
    name: str, calibration: Calibration, given: list[str], around: float | None = None
) -> Scoring:
    """Return the scoring of one estimator; the settings are the hybrid's.

    Args:
        around: what the sites of the hybrid lose while it learns; its settings' choice by default.
    """
    settings: dict[str, object] = {}
    if name == "hybrid":
        if around is not None:
            settings["sparsity"] = around
        kinds = {p.name: type(p.default) for p in estimator(name).parameters}
        for text in given:
            setting, _, value = text.partition("=")
            settings[setting] = kinds[setting](value)
    return Scoring(name, estimator(name).canonical(settings), calibration)


def main() -> None:
    """Measure every estimator at every sparsity on every seed and print the ratios."""
    given = options()
    loaded = load("demo", device=given.device, dtype=given.dtype)
    places = unit_places(read_anatomy(loaded.model))
    dense = protected_ends(places, given.ends)
    dense |= {p.key: 0.0 for p in places if given.lane and p.key.kind != given.lane}
    free = overall(places, {p.key: 1.0 for p in places if p.key not in dense})
    sparsities = [float(text) for text in given.sparsities.split(",")]

    def recipe(name: str, seed: int, sparsity: float) -> Recipe:
        shares = uniform(places, sparsity, dense)
        around = sparsity / free if given.each else None
        chosen = scoring(name, Calibration(given.corpus, seed=seed), given.set, around)
        return Recipe("demo", loaded.fingerprint, chosen).with_sparsity(shares)

    recipes = [
        recipe(name, seed, sparsity)
        for seed in map(int, given.seeds.split(","))
        for sparsity in sparsities
        for name in NAMES
    ]

    def heard(entry: Entry) -> None:
        made = entry.plan.recipe.scoring
        print(
            f"seed {made.calibration.seed}  {entry.plan.sparsity:.2%}  {made.estimator:<8}"
            f"{entry.quality.perplexity:12.3f}  scored in {entry.seconds['scoring']:.0f} s",
            flush=True,
        )

    run, _ = compare(
        loaded, recipes, replace(protocol(given.protocol), limit=given.limit), heard=heard
    )
    whole = run.dense_quality.perplexity
    print(f"dense {whole:.3f} on {run.protocol.title}, {given.limit} windows")
    rows = []
    for index, sparsity in enumerate(sparsities):
        damages = {
            name: fmean(
                math.log(entry.quality.perplexity / whole)
                for entry in run.entries[index * len(NAMES) + place :: len(sparsities) * len(NAMES)]
            )
            for place, name in enumerate(NAMES)
        }
        ratio = damages["hybrid"] / min(damages["fine"], damages["coarse"])
        rows.append({"sparsity": sparsity, "damages": damages, "ratio": ratio})
        told = "  ".join(f"{name} {value:.3f}" for name, value in damages.items())
        print(f"{sparsity:.0%}: {told}  ratio {ratio:.3f} (target {TARGET})")
    if given.json:
        report = {"benchmark": "fusion", "dense": whole, "rows": rows, "environment": environment()}
        write_text(given.json, as_json({**report, "entries": [e.as_dict() for e in run.entries]}))


if __name__ == "__main__":
    main()
