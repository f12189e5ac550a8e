"""The solver's time and how near the optimum it is; the latency that it can be asked to keep to.

    python -m tests.benchmarks.solver [--device auto] [--json FILE]

Four kinds of made-up curves, each over 60 sites of 4 widths (the measured points of a sensitivity
curve), 60 of 200 and 256 of 200, each at budgets from a fifth to nine tenths of the dense cost:

    smooth      convex curves of very different steepness, channels in equal steps
    ragged      the same with noise, so that narrower is sometimes better
    stairs      costs in twelve steps, as milliseconds have them
    knapsack    losses all but proportional to costs: the classical hard case

    ms          seconds of `solve` on choices as it is given them, in thousands: median and worst
    gap         (loss - bound) / loss, the worst. Targets: well under 1000 ms; at most 1e-4.

Where `highspy` is installed, HiGHS solves the same problem to the same gap for comparison; its
column `over` is by how much its solutions exceed the budget, in parts per million, the worst.

Then the staircases of the demo model, and for random plans the time of a whole pass against what
staircases and rest predict. That is wall-clock time and needs a quiet machine: with --busy it is
left out.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pruning_core.evaluation.latency import measure_latency
from pruning_core.evaluation.workload import Phase, Workload
from pruning_core.planning.budget import BudgetKind, cost_of, fixed_cost
from pruning_core.planning.plan import make_plan
from pruning_core.planning.solver import TOLERANCE, Choice, solve
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests.benchmarks import measuring
from tests.maps import random_map

SIZES = ((60, 4), (60, 200), (256, 200))
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)
PLANS = 5

Choices = dict[SiteKey, list[Choice]]


def smooth(draw: np.random.Generator, widths: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the costs and losses of one site."""
    gone = np.linspace(0, 1, widths)
    size = draw.choice([884_736, 2_654_208])
    return np.round(size * (1 - gone)), np.exp(draw.normal(-2, 1)) * gone ** draw.uniform(1.2, 3)


def ragged(draw: np.random.Generator, widths: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the costs and losses of one site."""
    costs, losses = smooth(draw, widths)
    losses[1:] += draw.normal(0, 0.02 * losses[-1], widths - 1)
    return costs, losses


def stairs(draw: np.random.Generator, widths: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the costs and losses of one site; all sites share the steps, not the noise on them."""
    steps = np.floor(np.linspace(11.99, 0, widths)) / 12 + 0.05
    return steps + draw.uniform(0, 0.005, widths), smooth(draw, widths)[1]


def knapsack(draw: np.random.Generator, widths: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the costs and losses of one site."""
    costs = np.sort(draw.integers(1, 1000, widths))[::-1].astype(float)
    return costs, (1000 - costs + draw.integers(0, 3, widths)) / 100


KINDS: tuple[Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]], ...] = (
    smooth,
    ragged,
    stairs,
    knapsack,
)


def problem(kind: Callable[..., Any], sites: int, widths: int) -> Choices:
    """Return choices for many sites."""
    draw = np.random.default_rng(0)
    choices: Choices = {}
    for layer in range(sites):
        costs, losses = kind(draw, widths)
        gone = np.linspace(0, 1, widths).tolist()
        trio = zip(gone, costs.tolist(), losses.tolist(), strict=True)
        choices[SiteKey(layer, SiteKind.MLP)] = [Choice(*numbers) for numbers in trio]
    return choices


def with_highs(choices: Choices, budget: float) -> tuple[float, float]:
    """Return the seconds that HiGHS takes and by which fraction its solution exceeds the budget."""
    import highspy

    started = time.perf_counter()
    rows, columns = len(choices), sum(len(options) for options in choices.values())
    costs = np.array([c.cost for options in choices.values() for c in options])
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = columns, rows + 1
    lp.col_cost_ = np.array([c.loss for options in choices.values() for c in options])
    lp.col_lower_, lp.col_upper_ = np.zeros(columns), np.ones(columns)
    lp.row_lower_ = np.append(np.ones(rows), -highspy.kHighsInf)
    lp.row_upper_ = np.ones(rows + 1)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.arange(0, 2 * columns + 1, 2)
    owner = np.repeat(np.arange(rows), [len(options) for options in choices.values()])
    lp.a_matrix_.index_ = np.stack([owner, np.full(columns, rows)], axis=1).ravel()
    lp.a_matrix_.value_ = np.stack([np.ones(columns), costs / budget], axis=1).ravel()
    lp.integrality_ = [highspy.HighsVarType.kInteger] * columns
    highs = highspy.Highs()
    for name, value in (("output_flag", False), ("mip_rel_gap", TOLERANCE), ("time_limit", 20.0)):
        highs.setOptionValue(name, value)
    highs.passModel(lp)
    highs.run()
    taken = np.round(highs.getSolution().col_value)
    return time.perf_counter() - started, float(costs @ taken) / budget - 1


def measure_solver(kind: Callable[..., Any], sites: int, widths: int) -> dict[str, Any]:
    """Return times and gaps over all budgets."""
    choices = problem(kind, sites, widths)
    dense = sum(options[0].cost for options in choices.values())
    least = sum(min(c.cost for c in options) for options in choices.values())
    took, gaps, others = [], [], []
    for share in SHARES:
        budget = least + share * (dense - least)
        solution = solve(choices, budget)
        work = functools.partial(solve, choices, budget)
        took.append(1000 * measuring.seconds(work, torch.device("cpu")))
        gaps.append((solution.loss - solution.bound) / abs(solution.loss))
        if importlib.util.find_spec("highspy"):
            others.append(with_highs(choices, budget))
    row: dict[str, Any] = {"kind": kind.__name__, "sites": sites, "widths": widths, "ms": took}
    row |= {"gap": max(gaps), "highs_ms": [1000 * seconds for seconds, _ in others]}
    row["text"] = (
        f"{kind.__name__:>10}{sites:>7}{widths:>8}{statistics.median(took):>8.0f}{max(took):>8.0f}"
        f"{max(gaps):>10.1e}"
    )
    if others:
        slow = row["highs_ms"]
        over = max(over for _, over in others)
        row["text"] += f"{statistics.median(slow):>12.0f}{max(slow):>8.0f}{1e6 * over:>8.1f}"
    return row


def measure_staircases(bench: Workbench, workload: Workload) -> dict[str, Any]:
    """Return the staircases and how far what they predict is from the time of whole passes."""
    started = time.perf_counter()
    measured = measure_latency(bench, workload, multiple=64)
    took = time.perf_counter() - started
    print(f"\n{workload}: measured in {took:.1f} s; microseconds per token")
    for kind in SiteKind:
        staircase = measured.sites[bench.anatomy.of_kind(kind)[0].key]
        pairs = zip(staircase.widths, staircase.milliseconds, strict=True)
        print(f"{kind:>10}  " + "  ".join(f"{w.parameters}: {1000 * ms:.1f}" for w, ms in pairs))
    print(f"{'rest':>10}  {1000 * measured.rest:.1f}")
    errors = []
    for seed in range(PLANS + 1):
        draw = random.Random(seed)
        share = {site.key: draw.random() if seed else 0.0 for site in bench.anatomy.sites}
        recipe = Recipe("demo", "abc").with_sparsity(share)
        plan = make_plan(recipe, random_map(bench.anatomy), bench.anatomy)
        predicted = fixed_cost(BudgetKind.LATENCY, bench.anatomy, 0, 0, measured) + sum(
            cost_of(BudgetKind.LATENCY, site.site, site.width, bench.anatomy, 0, measured)
            for site in plan.sites.values()
        )
        bench.apply(plan)
        passed = 1000 * whole_pass(bench, workload) / workload.tokens
        errors.append(predicted / passed - 1)
        what = f"random plan {seed}" if seed else "dense"
        print(f"{what:>16}: {1000 * predicted:.1f} predicted, {1000 * passed:.1f} measured")
    bench.restore()
    return {"workload": str(workload), "seconds": took, "relative_errors": errors}


@torch.no_grad()
def whole_pass(bench: Workbench, workload: Workload) -> float:
    """Return the seconds of an undisturbed pass, the median of some."""
    model = bench.model
    ids = torch.ones(workload.batch, workload.length + 1, dtype=torch.long, device=model.device)
    if workload.phase is Phase.PREFILL:
        kwargs: dict[str, Any] = {"input_ids": ids[:, :-1], "use_cache": False}
    else:
        cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
        kwargs = {"input_ids": ids[:, -1:], "past_key_values": cache, "use_cache": True}
    model(**kwargs, logits_to_keep=1)
    passes = 4 if workload.phase is Phase.PREFILL else 12
    return statistics.median(
        measuring.seconds(lambda: model(**kwargs, logits_to_keep=1), model.device)
        for _ in range(passes)
    )


def main() -> None:
    """Print a row for each kind and size, then the staircases."""
    given = measuring.options(__doc__, repeats=1)
    print(f"{'curves':>10}{'sites':>7}{'widths':>8}{'ms':>8}{'worst':>8}{'gap':>10}", end="")
    highs = importlib.util.find_spec("highspy") is not None
    print(f"{'HiGHS ms':>12}{'worst':>8}{'over':>8}" if highs else "   (HiGHS is not installed)")
    rows: list[dict[str, Any]] = []
    for sites, widths in SIZES:
        for kind in KINDS:
            rows.append(measure_solver(kind, sites, widths))
            print(rows[-1].pop("text"), flush=True)
    device = "cpu"
    if not given.busy:
        loaded = measuring.demo(given)
        device = str(loaded.device)
        bench = Workbench(loaded.model)
        print(f"\n{device} {loaded.dtype}, {torch.get_num_threads()} threads")
        rows += [measure_staircases(bench, Workload(phase, 1, 512)) for phase in Phase]
    measuring.report(given, "solver", device, rows)


if __name__ == "__main__":
    main()
