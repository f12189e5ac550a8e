"""Which width for which site, so that the whole fits a budget and the damage is least. Pure.

Every site takes exactly one of its choices: a multiple-choice knapsack. It is solved in three
steps, each on arrays:

1. The Lagrange dual. A price per unit of cost splits the problem into its sites, each of which then
   takes the choice with the least loss + price * cost. Any price gives a bound that no solution can
   beat; following chords between a solution that fits and one that does not finds the best price.
2. A start. What fits at that price is filled up, choice by choice, until nothing more fits. With
   many fine widths that is within `TOLERANCE` of the bound already, and the work is done.
3. The core. A choice whose loss at the price is further from its site's best than the start is from
   the bound can't be in a better solution; few choices are left. Partial solutions over them, the
   dominated ones thrown away (Dyer, Riha and Walker 1995), close the rest of the gap. They are
   capped in number; what a cap leaves out lowers the bound that is reported, so that it stays one.

Why no general solver stands here: on 60 and 256 sites of 200 choices HiGHS 1.16 takes seconds where
this takes milliseconds, and it meets a constraint to a millionth of its size, which is a hundred
parameters too many in a model of a hundred million (`tests/benchmarks/solver.py` shows both).

The same inputs give the same solution: nothing here depends on time or chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pruning_core.errors import PrunescopeError
from pruning_core.recipe import SiteKey

TOLERANCE = 1e-4
"""How far from the bound a solution may be, as a fraction of itself, to be good enough. Curves as
models have them get there; of losses all but proportional to costs some end at 0.0005."""

_SEARCHES = ((250, 250), (4000, 250), (1000, 3000))
"""How many choices are looked at, and how many partial solutions carried on, in one search of the
core after the other. The first is quick, and the better its solution, the less is left for the next
ones, of which one looks at many choices and one carries many partial solutions."""

_ROUNDING = 1e-12
"""Sums of costs that differ by less than this fraction are the same sum."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """One width that a site may have.

    Attributes:
        sparsity: of the site at that width.
        cost: what it spends of the budget (parameters, bytes, operations, milliseconds), 0 or more.
        loss: the predicted damage in nats per token; it need not grow with the sparsity.
    """

    sparsity: float
    cost: float
    loss: float


@dataclass(frozen=True)
class Solution:
    """A sparsity for every site.

    Attributes:
        sparsity: by site, in the order in which the choices were given.
        cost: of all sites and of what is fixed.
        loss: of all sites.
        bound: no solution is better than this in what was asked for: the least loss (`solve`,
            `frontier`), or the least cost (`cheapest`).
    """

    sparsity: Mapping[SiteKey, float]
    cost: float
    loss: float
    bound: float


def solve(
    choices: Mapping[SiteKey, Sequence[Choice]], budget: float, *, fixed: float = 0.0
) -> Solution:
    """Return the solution with the least loss whose cost is within a budget.

    Of choices with the same loss the cheaper one is taken.

    Args:
        choices: by site, at least one each; a locked site has exactly one.
        budget: the most that everything may cost.
        fixed: the part of the budget that goes to what is no site.

    Raises:
        PrunescopeError: if even the cheapest choices exceed the budget, with what they cost; or if
            a site has no choice, or a number is not finite or a cost negative.
    """
    return frontier(choices, (budget,), fixed=fixed)[0]


def frontier(
    choices: Mapping[SiteKey, Sequence[Choice]], budgets: Sequence[float], *, fixed: float = 0.0
) -> tuple[Solution, ...]:
    """Return the solution for each of many budgets, in their order; a larger one is never worse.

    Raises:
        PrunescopeError: as `solve`, for any of the budgets.
    """
    sites = _Sites(choices)
    least = float(sites.costs.min(axis=1).sum()) + fixed
    found: dict[float, Solution] = {}
    best: Solution | None = None
    for budget in sorted(set(budgets)):
        if not _fits(least, budget):
            raise PrunescopeError(
                f"The budget is {budget:,.10g}, but the least that this model can come to is "
                f"{_rounded_up(least)}, with everything removed that locks and minimum widths let "
                "go. Raise the budget, unlock sites, or allow narrower ones."
            )
        picked, bound = _minimise(sites.losses, sites.costs, budget - fixed)
        solution = sites.solution(picked, fixed, bound)
        if best is not None and best.loss <= solution.loss:
            solution = best
        # The same sum in another order may round differently.
        found[budget] = best = replace(solution, bound=min(bound, solution.loss))
    return tuple(found[budget] for budget in budgets)


def cheapest(
    choices: Mapping[SiteKey, Sequence[Choice]], loss_ceiling: float, *, fixed: float = 0.0
) -> Solution:
    """Return the solution that costs least of those whose loss is within a ceiling.

    Args:
        choices: as for `solve`.
        loss_ceiling: the most nats per token that all sites may cost together.
        fixed: what is no site costs this much; it is counted in the solution's cost and bound.

    Raises:
        PrunescopeError: if even the choices with the least loss exceed the ceiling, with what they
            come to; else as `solve`.
    """
    sites = _Sites(choices)
    least = float(sites.losses.min(axis=1).sum())
    if not _fits(least, loss_ceiling):
        raise PrunescopeError(
            f"The ceiling on the loss is {loss_ceiling:.6g} nats per token above dense, but the "
            f"least that is predicted is {_rounded_up(least)}. Raise the ceiling, or unlock sites."
        )
    picked, bound = _minimise(sites.costs, sites.losses, loss_ceiling)
    solution = sites.solution(picked, fixed, bound + fixed)
    return replace(solution, bound=min(solution.bound, solution.cost))


class _Sites:
    """The choices of all sites as two matrices, [sites, choices], short rows filled up.

    Attributes:
        costs, losses: of every choice. What fills a row up repeats its last choice.
    """

    def __init__(self, choices: Mapping[SiteKey, Sequence[Choice]]) -> None:
        for key, options in choices.items():
            if not options:
                raise PrunescopeError(f"Site {key} has no width to choose: allow it at least one.")
        most = max((len(options) for options in choices.values()), default=1)
        self._keys = tuple(choices)
        self._rows = [[*o, *[o[-1]] * (most - len(o))] for o in choices.values()]
        shape = (len(self._rows), most)
        self.costs = np.array([[c.cost for c in row] for row in self._rows], float).reshape(shape)
        self.losses = np.array([[c.loss for c in row] for row in self._rows], float).reshape(shape)
        wrong = ~np.isfinite(self.costs) | ~np.isfinite(self.losses) | (self.costs < 0)
        if wrong.any():
            site, index = (int(i) for i in np.argwhere(wrong)[0])
            choice = self._rows[site][index]
            raise PrunescopeError(
                f"At sparsity {choice.sparsity:.4g} site {self._keys[site]} has a cost of "
                f"{choice.cost} and a predicted loss of {choice.loss}: both must be finite, and no "
                "cost negative. Measure its curves again."
            )

    def solution(self, picked: Indices, fixed: float, bound: float) -> Solution:
        """Return the solution that takes one choice for each site, int64 [sites]."""
        taken = [row[index] for row, index in zip(self._rows, picked, strict=True)]
        return Solution(
            sparsity={key: c.sparsity for key, c in zip(self._keys, taken, strict=True)},
            cost=math.fsum([fixed, *(c.cost for c in taken)]),
            loss=math.fsum(c.loss for c in taken),
            bound=bound,
        )


@dataclass(frozen=True)
class _Priced:
    """What the sites take at a price.

    Attributes:
        picked: the choice of each site, int64 [sites].
        value, weight: of all of them together.
    """

    picked: Indices
    value: float
    weight: float


def _minimise(values: Floats, weights: Floats, limit: float) -> tuple[Indices, float]:
    """Return the choices with the least value within a limit on their weight, and a bound on it.

    Args:
        values, weights: [sites, choices]; some solution must fit.

    Returns:
        int64 [sites], and a value that no solution that fits goes below.
    """
    limit += _ROUNDING * max(abs(limit), float(np.abs(weights).max(axis=1, initial=0).sum()))
    free = _cheapest_of_best(values, weights)
    if free.weight <= limit:
        return free.picked, free.value
    price, bound, fits = _price(values, weights, limit, free)
    picked = _filled(values, weights, limit, fits.picked)
    proven = bound
    for size in _SEARCHES:
        value = _total(values, picked)
        goal = value - TOLERANCE * abs(value)
        if proven >= goal:
            break
        picked, reached = _search(values, weights, limit, (price, bound), goal, picked, size)
        proven = max(proven, reached)
    return picked, min(proven, _total(values, picked))


def _cheapest_of_best(values: Floats, weights: Floats) -> _Priced:
    """Let every site take its least value, of equals the one with the least weight."""
    ties = np.where(values == values.min(axis=1, keepdims=True), weights, np.inf)
    return _taken(values, weights, ties.argmin(axis=1))


def _taken(values: Floats, weights: Floats, picked: Indices) -> _Priced:
    return _Priced(picked, _total(values, picked), _total(weights, picked))


def _total(numbers: Floats, picked: Indices) -> float:
    return float(numbers[np.arange(len(numbers)), picked].sum())


def _price(
    values: Floats, weights: Floats, limit: float, heavy: _Priced
) -> tuple[float, float, _Priced]:
    """Find the price that bounds best, the bound, and the best solution met that fits.

    Args:
        heavy: what the sites take at price 0; it does not fit.
    """
    light = _taken(values, weights, _cheapest_of_best(weights, values).picked)
    best = light
    price, bound = 0.0, heavy.value
    while light.weight < heavy.weight:
        chord = (light.value - heavy.value) / (heavy.weight - light.weight)
        priced = values + chord * weights
        between = _taken(values, weights, priced.argmin(axis=1))
        here = float(priced.min(axis=1).sum()) - chord * limit
        if here > bound:
            price, bound = chord, here
        below = between.value + chord * between.weight < light.value + chord * light.weight
        if not below or not light.weight < between.weight < heavy.weight:
            break
        if between.weight > limit:
            heavy = between
        else:
            light = between
            best = min(best, light, key=lambda solution: solution.value)
    return price, bound, best


def _filled(values: Floats, weights: Floats, limit: float, picked: Indices) -> Indices:
    """Change one site at a time, that which helps most, until no change that helps fits."""
    rows = np.arange(len(values))
    picked = picked.copy()
    while True:
        room = limit - _total(weights, picked)
        gains = values[rows, picked][:, None] - values
        heavier = weights - weights[rows, picked][:, None]
        gains[heavier > room] = 0
        site, choice = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[site, choice] <= 0:
            return picked
        picked[site] = choice


def _search(
    values: Floats,
    weights: Floats,
    limit: float,
    dual: tuple[float, float],
    goal: float,
    start: Indices,
    size: tuple[int, int],
) -> tuple[Indices, float]:
    """Look for a solution below a goal; return the best one known and what no solution goes below.

    A partial solution has *excess*: by how much its choices, at the price, are above the best of
    their sites. Whatever becomes of it, its value will be at least the bound plus the excess, plus
    what the budget that it can no longer spend would have been worth.

    Args:
        dual: the price, and the bound that it gives.
        start: the best solution known, returned where none is below the goal.
        size: how many choices are looked at besides the best of each site, and how many partial
            solutions are carried from one site to the next.
    """
    price, bound = dual
    most_choices, most_partial = size
    priced = values + price * weights
    excess = priced - priced.min(axis=1, keepdims=True)
    worth, lost = _core(excess, goal - bound, most_choices)
    lost += bound
    lightest = np.where(worth, weights, np.inf).min(axis=1)
    heaviest = np.where(worth, weights, -np.inf).max(axis=1)
    # The widest sites first: the narrow ones that follow decide how well the limit is met.
    order = np.argsort(lightest - heaviest, kind="stable")
    partial = _Partial(np.zeros(1), np.zeros(1), np.zeros(1))
    history: list[tuple[Indices, Indices]] = []
    least, most = float(lightest.sum()), float(heaviest.sum())
    for site in order:
        least, most = least - lightest[site], most - heaviest[site]
        options = np.flatnonzero(worth[site])
        parents = np.repeat(np.arange(len(partial.weight)), len(options))
        grown = partial.grown(values[site, options], weights[site, options], excess[site, options])
        reach = bound + grown.excess + price * np.maximum(limit - most - grown.weight, 0)
        kept = np.flatnonzero((grown.weight + least <= limit) & (reach < goal))
        kept = kept[grown.undominated(kept)]
        if len(kept) > most_partial:
            ranked = kept[np.argsort(reach[kept], kind="stable")]
            lost = min(lost, float(reach[ranked[most_partial]]))
            kept = ranked[:most_partial]
        history.append((parents[kept], options[kept % len(options)]))
        partial = grown.at(kept)
        if not len(kept):
            return start, min(goal, lost)
    last = int(partial.value.argmin())
    picked = start.copy()
    for site, (parent, choice) in zip(order[::-1], reversed(history), strict=True):
        picked[site] = choice[last]
        last = int(parent[last])
    return picked, min(_total(values, picked), lost)


def _core(excess: Floats, below: float, most: int) -> tuple[NDArray[np.bool_], float]:
    """Return which choices are worth a look, and the least excess of one that would have been too.

    Args:
        excess: [sites, choices]; the best choice of each site has none, and is worth a look.
        below: what a choice must stay below.
        most: how many choices may be, besides the best ones.
    """
    worth = excess < below
    lost = np.inf
    if worth.sum() > most + len(excess):
        # Choice by choice, so that of equals each site gets some.
        ranked = np.argsort(np.where(worth, excess, np.inf).T, axis=None, kind="stable")
        choice, site = np.unravel_index(ranked[: most + len(excess)], excess.T.shape)
        lost = float(excess.T.ravel()[ranked[most + len(excess)]])
        worth = np.zeros_like(worth)
        worth[site, choice] = True
    worth[np.arange(len(excess)), excess.argmin(axis=1)] = True
    return worth, lost


@dataclass(frozen=True)
class _Partial:
    """Many partial solutions: value, weight and excess of each, [partial solutions]."""

    value: Floats
    weight: Floats
    excess: Floats

    def grown(self, value: Floats, weight: Floats, excess: Floats) -> _Partial:
        """Return each of them with each choice of one more site, choices running fastest."""
        return _Partial(
            np.add.outer(self.value, value).ravel(),
            np.add.outer(self.weight, weight).ravel(),
            np.add.outer(self.excess, excess).ravel(),
        )

    def at(self, indices: Indices) -> _Partial:
        """Return some of them."""
        return _Partial(self.value[indices], self.weight[indices], self.excess[indices])

    def undominated(self, indices: Indices) -> Indices:
        """Return which of some are not met by another that is no heavier and no worse."""
        if not len(indices):
            return np.zeros(0, np.int64)
        value, weight = self.value[indices], self.weight[indices]
        order = np.lexsort((value, weight))
        ranked = value[order]
        before = np.concatenate([[np.inf], np.minimum.accumulate(ranked)[:-1]])
        return order[ranked < before]


def _fits(cost: float, budget: float) -> bool:
    return cost <= budget + _ROUNDING * max(abs(cost), abs(budget))  # never true of NaN


def _rounded_up(value: float) -> str:
    """Print a number to six digits or more, so that what is printed is no less than it."""
    digits = max(6 - math.ceil(math.log10(abs(value))), 0) if value else 0
    return f"{math.ceil(value * 10**digits) / 10**digits:,.12g}"
