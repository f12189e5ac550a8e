"""The solver against trying everything, and what it promises where everything is too much."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.planning.solver import TOLERANCE, Choice, Solution, cheapest, frontier, solve
from pruning_core.recipe import SiteKey, SiteKind

Choices = dict[SiteKey, list[Choice]]

COARSE = st.integers(0, 12).map(float)
"""Few different numbers, so that there are ties and budgets are met exactly."""
FINE = st.integers(0, 10**7).map(lambda number: number / 10**6)
"""Many, but none so near to another that sums of them differ by rounding only."""


def named(rows: list[list[tuple[float, float]]]) -> Choices:
    """Return (cost, loss) pairs as the choices of as many sites."""
    return {
        SiteKey(index // 2, list(SiteKind)[index % 2]): [
            Choice(place / 8, cost, loss) for place, (cost, loss) in enumerate(row)
        ]
        for index, row in enumerate(rows)
    }


def instances(
    costs: st.SearchStrategy[float], losses: st.SearchStrategy[float]
) -> st.SearchStrategy:
    row = st.lists(st.tuples(costs, losses), min_size=1, max_size=4)
    return st.lists(row, min_size=1, max_size=5).map(named)


ANY = st.one_of(
    instances(COARSE, COARSE),
    instances(FINE, FINE),
    instances(COARSE, FINE.map(lambda number: number - 5)),
)


def everything(choices: Choices) -> list[tuple[float, float]]:
    """Return the cost and the loss of every solution there is."""
    return [
        (math.fsum(c.cost for c in taken), math.fsum(c.loss for c in taken))
        for taken in itertools.product(*choices.values())
    ]


def weighed(choices: Choices, solution: Solution) -> tuple[float, float]:
    """Return cost and loss of a solution, looked up by the sparsities it names."""
    taken = [
        next(c for c in options if c.sparsity == solution.sparsity[key])
        for key, options in choices.items()
    ]
    return math.fsum(c.cost for c in taken), math.fsum(c.loss for c in taken)


def smooth(sites: int, widths: int, seed: int) -> Choices:
    """Return convex curves of very different steepness over equal widths."""
    draw = np.random.default_rng(seed)
    steep, power = np.exp(draw.normal(-3, 1, sites)), draw.uniform(1.2, 3, sites)
    grid = np.linspace(0, 1, widths)
    return {
        SiteKey(i, SiteKind.MLP): [
            Choice(float(s), round(1e6 * (1 - s)), float(steep[i] * s ** power[i])) for s in grid
        ]
        for i in range(sites)
    }


@given(ANY, st.floats(0, 1))
def test_no_other_solution_within_the_budget_is_better(choices: Choices, share: float) -> None:
    every = everything(choices)
    low, high = min(cost for cost, _ in every), max(cost for cost, _ in every)
    budget = low + share * (high - low)
    # The solver forgives rounding: what costs a hair more may be in or out, and both are right.
    assume(not any(budget < cost <= budget + 1e-9 for cost, _ in every))
    best = min(loss for cost, loss in every if cost <= budget)
    solution = solve(choices, budget)
    assert (solution.cost, solution.loss) == weighed(choices, solution)
    assert solution.cost <= budget + 1e-9
    assert best - 1e-9 <= solution.loss <= best + TOLERANCE * abs(solution.loss) + 1e-9
    assert solution.bound <= best + 1e-9
    assert solution.loss - solution.bound <= TOLERANCE * abs(solution.loss) + 1e-9


@given(ANY, st.data())
def test_a_budget_that_is_met_exactly_is_met(choices: Choices, data: st.DataObject) -> None:
    every = everything(choices)
    budget, loss = data.draw(st.sampled_from(every))
    assert solve(choices, budget).loss <= loss + TOLERANCE * abs(loss) + 1e-9
    assert cheapest(choices, loss).cost <= budget * (1 + TOLERANCE) + 1e-9


@given(ANY, st.floats(0, 1))
def test_no_other_solution_below_the_ceiling_is_cheaper(choices: Choices, share: float) -> None:
    every = everything(choices)
    low, high = min(loss for _, loss in every), max(loss for _, loss in every)
    ceiling = low + share * (high - low)
    best = min(cost for cost, loss in every if loss <= ceiling)
    solution = cheapest(choices, ceiling, fixed=3.0)
    cost, loss = weighed(choices, solution)
    assert solution.cost == pytest.approx(cost + 3)
    assert loss == solution.loss <= ceiling + 1e-9
    assert cost <= best + TOLERANCE * cost + 1e-9
    assert solution.bound <= best + 3 + 1e-9


@given(ANY, st.floats(0.001, 1))
def test_an_unreachable_budget_is_refused_with_the_least_there_is(
    choices: Choices, short: float
) -> None:
    least = min(cost for cost, _ in everything(choices)) + 5
    with pytest.raises(PrunescopeError) as refused:
        solve(choices, least - short, fixed=5)
    said = str(refused.value).partition("come to is ")[2].partition(", with")[0]
    named_least = float(said.replace(",", ""))
    assert named_least == pytest.approx(least, rel=1e-5)
    assert solve(choices, named_least, fixed=5).cost <= named_least + 1e-9


def test_a_refused_budget_is_told_in_whole_numbers() -> None:
    choices = named([[(80_000_000.0, 0.0), (20_000_000.0, 1.0)]])
    with pytest.raises(PrunescopeError, match="budget is 50,000,000, .* is 54,515,009, with"):
        solve(choices, 50e6, fixed=34_515_008.5)


def test_an_unreachable_ceiling_is_refused_with_the_least_there_is() -> None:
    choices = named([[(5.0, 0.25), (1.0, 1.0)], [(2.0, 0.5)]])
    with pytest.raises(PrunescopeError, match=r"is 0\.5 nats .* predicted is 0\.75\."):
        cheapest(choices, 0.5)


@pytest.mark.parametrize("budget", [5e6, 5e6 + 0.5, 1e12, math.inf])
def test_a_budget_for_the_dense_model_leaves_it_dense(budget: float) -> None:
    solution = solve(smooth(5, 20, 0), budget)
    assert set(solution.sparsity.values()) == {0.0}
    assert solution.loss == solution.bound == 0


def test_a_site_with_one_choice_keeps_it_and_the_others_make_up() -> None:
    choices = smooth(4, 50, 1)
    locked = SiteKey(2, SiteKind.MLP)
    free = solve(choices, 2e6)
    choices[locked] = [choices[locked][0]]
    around = solve(choices, 2e6)
    assert around.sparsity[locked] == 0
    assert free.sparsity[locked] > 0
    assert around.cost <= 2e6
    assert around.loss > free.loss


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize(("sites", "widths"), [(60, 4), (60, 200), (256, 200)])
def test_large_problems_are_solved_to_the_tolerance(sites: int, widths: int, share: float) -> None:
    choices = smooth(sites, widths, seed=sites + widths)
    solution = solve(choices, share * sites * 1e6)
    assert solution.cost <= share * sites * 1e6
    assert 0 <= solution.loss - solution.bound <= 1.001 * TOLERANCE * solution.loss
    assert solution == solve(choices, share * sites * 1e6)


def test_the_bound_holds_where_partial_solutions_are_thrown_away() -> None:
    # Knapsacks whose values are all but proportional to their weights: nothing is dominated, the
    # caps bite, and the least loss is known, since the losses are built to add up to it.
    draw = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        costs = draw.choice(100_000, 30, replace=False).astype(float)
        rows.append([(float(c), float(100_000 - c)) for c in costs])
    budget = 40 * 50_000.0
    solution = solve(named(rows), budget)
    assert solution.cost <= budget
    assert solution.bound <= 40 * 100_000 - budget <= solution.loss
    assert solution.loss - solution.bound <= TOLERANCE * solution.loss


def test_more_budget_never_does_more_damage_and_the_order_is_kept() -> None:
    choices = smooth(12, 30, 2)
    budgets = [9e6, 3e6, 6e6, 3e6, *np.linspace(2e6, 12e6, 40).tolist()]
    solutions = frontier(choices, budgets)
    assert len(solutions) == len(budgets)
    ranked = [loss for _, loss in sorted(zip(budgets, (s.loss for s in solutions), strict=True))]
    assert ranked == sorted(ranked, reverse=True)
    for budget, solution in zip(budgets, solutions, strict=True):
        assert solution.cost <= budget
        assert solution.bound <= solution.loss <= solution.bound * 1.0002 + 1e-12


def test_widths_that_help_are_taken_and_of_equal_ones_the_cheaper() -> None:
    choices = named([[(9.0, 0.0), (6.0, -0.5), (3.0, -0.5), (1.0, 2.0)]])
    solution = solve(choices, 100)
    assert (solution.cost, solution.loss, solution.bound) == (3.0, -0.5, -0.5)


def test_nothing_to_choose_costs_what_is_fixed() -> None:
    assert solve({}, 7.0, fixed=7.0) == Solution({}, 7.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "choice", [Choice(0.5, -1.0, 0.0), Choice(0.5, math.nan, 0.0), Choice(0.5, 1.0, math.inf)]
)
def test_numbers_that_mean_nothing_are_refused(choice: Choice) -> None:
    choices = {SiteKey(3, SiteKind.MLP): [Choice(0.0, 2.0, 0.0), choice]}
    with pytest.raises(PrunescopeError, match=r"sparsity 0\.5 site 3\.mlp"):
        solve(choices, 10.0)


def test_a_site_without_choices_is_refused() -> None:
    with pytest.raises(PrunescopeError, match=r"3\.attention has no width"):
        solve({SiteKey(3, SiteKind.ATTENTION): []}, 10.0)


def test_a_budget_that_is_no_number_is_refused() -> None:
    with pytest.raises(PrunescopeError, match="budget is nan"):
        solve(named([[(1.0, 1.0)]]), math.nan)


def test_bounds_of_random_problems_are_never_above_a_better_solution() -> None:
    draw = np.random.default_rng(7)
    for _ in range(200):
        rows = [
            [(float(c), float(v)) for c, v in draw.integers(0, 40, (draw.integers(1, 7), 2))]
            for _ in range(6)
        ]
        choices = named(rows)
        every = everything(choices)
        budget = float(draw.choice([cost for cost, _ in every]))
        best = min(loss for cost, loss in every if cost <= budget)
        solution = solve(choices, budget)
        assert solution.bound <= best + 1e-9
        assert solution.loss <= best * (1 + 2 * TOLERANCE)
