"""The tuner's promises: quick and honest predictions, and shapes that are better than presets.

    PRUNESCOPE_DATA=... python -m tests.benchmarks.tuner [--estimator fine] [--json FILE]

On the demo model, its units ranked by one estimator, on the probe of embedded text:

    drag        milliseconds of Python from a drag's sparsities to a prediction, plan and counts of
                parameters, bytes and operations included; median and 95th percentile. Target: 100.
    solve       milliseconds to the best shape under another budget, or around other locks. Target:
                1000.
    curves      seconds of the curves of all sites at four sparsities over the seconds that as many
                full measurements take, which is the naive way.
    prediction  of 60 random recipes that nothing was fitted on, 10 to 50 % removed: Spearman's rank
                correlation of predicted with measured increase of the loss, and the median relative
                error of the increase. Targets: at least 0.95, at most 15 %. Beside the additive
                prediction.
    shapes      perplexity of the solver's shape, of every preset and of a global ranking at the
                same parameters, on two probe texts that nothing was fitted on: geometric means.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning_core.calibration import Split, load_text, measurement_windows
from pruning_core.evaluation.live import LiveEvaluator
from pruning_core.evaluation.protocol import protocol
from pruning_core.evaluation.sensitivity import Sensitivity, loss, random_recipes
from pruning_core.importance.evidence import evidence_for
from pruning_core.importance.map import ImportanceMap
from pruning_core.importance.registry import estimator
from pruning_core.importance.scoring import score
from pruning_core.model.loading import LoadedModel, load
from pruning_core.planning.allocation import one_ranking, owl, protect_ends, uniform, unit_places
from pruning_core.planning.budget import BudgetKind, Limits
from pruning_core.planning.curves import LEVELS
from pruning_core.planning.outliers import outlier_shares
from pruning_core.planning.plan import UnitPlan, make_plan
from pruning_core.planning.prediction import Predictor, additive
from pruning_core.planning.search import Terms, best_shape
from pruning_core.recipe import Calibration, Recipe, Scoring, SiteKey
from pruning_core.runs import as_json, environment, write_text
from pruning_core.surgery.workbench import Workbench

PROBE, UNSEEN = "probe", ("probe-wikitext2", "probe-c4")
SPARSITIES = (0.2, 0.35, 0.5)
RECIPES, ENDS = 60, 3
Shapes = Mapping[str, Mapping[SiteKey, float]]


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--estimator", default="fine")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def windows_of(loaded: LoadedModel, name: str) -> torch.Tensor:
    """Return the windows of a probe."""
    asked = protocol(name)
    text = load_text(asked.corpus, Split.MEASUREMENT)
    return measurement_windows(
        text, loaded.tokenizer, length=asked.window, limit=asked.limit, bos=asked.bos
    )


class Subject:
    """The demo model, ranked, with what measures it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.loaded = load("demo", device=given.device, dtype=given.dtype)
        # First of all: a text that is not there shows before minutes of work.
        self.windows = {name: windows_of(self.loaded, name) for name in (PROBE, *UNSEEN)}
        self.bench = Workbench(self.loaded.model)
        self.anatomy = self.bench.anatomy
        self.places = unit_places(self.anatomy)
        scoring = Scoring(given.estimator, estimator(given.estimator).canonical({}), Calibration())
        evidence = evidence_for(
            self.loaded.model, self.loaded.tokenizer, self.anatomy, scoring.calibration
        )
        self.scores: ImportanceMap = score(scoring, evidence, self.loaded.fingerprint)
        self.outliers = outlier_shares(self.loaded.model, self.anatomy, evidence.windows)
        self.recipe = Recipe("demo", self.loaded.fingerprint, self.scores.scoring)

    def plan(self, sparsity: Mapping[SiteKey, float]) -> UnitPlan:
        """Resolve sparsities."""
        return make_plan(self.recipe.with_sparsity(sparsity), self.scores, self.anatomy)

    def evaluator(self, name: str = PROBE) -> LiveEvaluator:
        """Return what measures on a probe and remembers nothing yet."""
        return LiveEvaluator(self.bench, self.windows[name])


def gather(subject: Subject) -> tuple[Sensitivity, dict[str, Any]]:
    """Measure curves and practice recipes; time the curves against as many full measurements."""
    known = Sensitivity(subject.evaluator(), subject.anatomy, subject.plan, subject.places)
    known.step()  # with it the dense model, and what a first pass has to set up
    points = len(LEVELS) * len(subject.anatomy.sites)
    started = time.perf_counter()
    while known.done < points:
        known.step()
    seconds = (time.perf_counter() - started) * points / (points - 1)
    full = statistics.median(full_measurement(subject, seed) for seed in range(5))
    started = time.perf_counter()
    while known.step():
        pass
    return known, {
        "points": points,
        "seconds": seconds,
        "naive seconds": full * points,
        "ratio": seconds / (full * points),
        "refinement and practice seconds": time.perf_counter() - started,
    }


def full_measurement(subject: Subject, seed: int) -> float:
    """Return the seconds of measuring one site's pruning by a full pass, nothing remembered."""
    probe = subject.evaluator()
    site = subject.anatomy.sites[seed * 11 % len(subject.anatomy.sites)]
    plan = subject.plan({site.key: 0.5})
    started = time.perf_counter()
    probe.measure(plan)
    return time.perf_counter() - started


def drag(subject: Subject, predictor: Predictor) -> dict[str, float]:
    """Time what happens in Python between a drag and the numbers on screen."""
    times = []
    for moved in random_recipes(subject.places, 200, seed=7):
        started = time.perf_counter()
        plan = subject.plan(moved)
        plan.cost(subject.bench.dense_bytes, 256)
        predictor.increase(plan.reached)
        times.append(1000 * (time.perf_counter() - started))
    return {"median ms": statistics.median(times), "95th ms": float(np.quantile(times, 0.95))}


def solve(subject: Subject, predictor: Predictor) -> dict[str, float]:
    """Time how long a changed budget or lock takes to a new shape."""
    draw, times = random.Random(0), []
    whole = subject.anatomy.parameters
    for _ in range(50):
        budget = whole * draw.uniform(0.5, 0.95)
        locks = frozenset(site.key for site in subject.anatomy.sites if draw.random() < 0.2)
        terms = Terms(BudgetKind.PARAMETERS, budget, limits=Limits(may_remove=True))
        started = time.perf_counter()
        best_shape(terms, predictor, replace(subject.recipe, locks=locks), subject.anatomy)
        times.append(1000 * (time.perf_counter() - started))
    return {"median ms": statistics.median(times), "95th ms": float(np.quantile(times, 0.95))}


def prediction(subject: Subject, known: Sensitivity) -> dict[str, Any]:
    """Compare predicted with measured increases on recipes that nothing was fitted on."""
    assert known.curves is not None
    assert known.predictor is not None
    probe = subject.evaluator()
    dense = loss(probe.measure(None))
    plans = [subject.plan(r) for r in random_recipes(subject.places, RECIPES, seed=1)]
    measured = np.array([loss(probe.measure(plan)) - dense for plan in plans])
    report: dict[str, Any] = {
        "recipes": RECIPES,
        "sparsity": [min(p.sparsity for p in plans), max(p.sparsity for p in plans)],
        "increase": [float(measured.min()), float(measured.max())],
        "fitted on": len(known.observed),
        "told error": known.predictor.error,
        "level, power": [known.predictor.level, known.predictor.power],
    }
    for name, predictor in (("additive", additive(known.curves)), ("ours", known.predictor)):
        predicted = np.array([predictor.increase(plan.reached) for plan in plans])
        report[name] = {
            "rank correlation": float(np.corrcoef(ranks(predicted), ranks(measured))[0, 1]),
            "median relative error": float(np.median(np.abs(predicted - measured) / measured)),
        }
    return report


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of every value; measured ones have no ties."""
    return values.argsort().argsort()


def shapes(subject: Subject, known: Sensitivity) -> list[dict[str, Any]]:
    """Measure the solver's shape and all others of its size on texts that it has not seen."""
    assert known.predictor is not None
    rows = []
    for sparsity in SPARSITIES:
        made: dict[str, Mapping[SiteKey, float]] = {
            "uniform": uniform(subject.places, sparsity),
            "protect the ends": protect_ends(subject.places, sparsity, ENDS),
            "outliers (OWL)": owl(subject.places, sparsity, subject.outliers),
            "one ranking": one_ranking(subject.places, sparsity, subject.scores),
        }
        # As many parameters as the uniform shape has, or fewer.
        budget = subject.plan(made["uniform"]).parameters
        terms = Terms(BudgetKind.PARAMETERS, budget, limits=Limits(may_remove=True))
        shape = best_shape(terms, known.predictor, subject.recipe, subject.anatomy)
        made["solver"] = shape.sparsity
        plans = {name: subject.plan(shares) for name, shares in made.items()}
        rows.append(
            {
                "sparsity": sparsity,
                "gap": shape.gap,
                "shapes": {
                    name: {"parameters": plan.parameters, "sparsity": plan.sparsity}
                    for name, plan in plans.items()
                },
            }
        )
        for text in (PROBE, *UNSEEN):
            probe = subject.evaluator(text)
            rows[-1][f"dense {text}"] = probe.measure(None).perplexity
            for name, plan in plans.items():
                rows[-1]["shapes"][name][text] = probe.measure(plan).perplexity
        for values in rows[-1]["shapes"].values():
            values["unseen"] = math.exp(statistics.fmean(math.log(values[text]) for text in UNSEEN))
    return rows


def print_shapes(rows: list[dict[str, Any]]) -> None:
    """Print a table for every sparsity."""
    for row in rows:
        print(f"\n{row['sparsity']:.0%} of prunable parameters (gap {row['gap']:.1e})")
        print(f"  {'':<18}{'parameters':>14}" + "".join(f"{t:>18}" for t in (PROBE, *UNSEEN)))
        for name, values in row["shapes"].items():
            told = "".join(f"{values[text]:>18.2f}" for text in (PROBE, *UNSEEN))
            print(f"  {name:<18}{values['parameters']:>14,}{told}   unseen {values['unseen']:.2f}")


def main() -> None:
    """Measure everything and print it."""
    given = options()
    subject = Subject(given)
    report: dict[str, Any] = {"benchmark": "tuner", "estimator": given.estimator}

    def told(name: str, measure: Callable[[], Any]) -> Any:
        report[name] = measure()
        print(f"{name}: {report[name]}", flush=True)
        return report[name]

    known, report["curves"] = gather(subject)
    print(f"curves: {report['curves']}", flush=True)
    assert known.predictor is not None
    told("drag", lambda: drag(subject, known.predictor))
    told("solve", lambda: solve(subject, known.predictor))
    told("prediction", lambda: prediction(subject, known))
    report["shapes"] = shapes(subject, known)
    print_shapes(report["shapes"])
    if given.json:
        write_text(given.json, as_json({**report, "environment": environment()}))


if __name__ == "__main__":
    main()
