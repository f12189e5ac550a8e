"""Find the best shape under a budget: predicted damage on one side, the price on the other. Pure.

The predictor orders recipes by a sum over sites (`prediction`), so the best shape is the solution
of a knapsack (`solver`): exact but for a gap that is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Site, Width
from pruning_core.planning.budget import (
    BudgetKind,
    Latency,
    Limits,
    cost_of,
    fixed_cost,
    site_widths,
)
from pruning_core.planning.prediction import Predictor
from pruning_core.planning.solver import Choice, Solution, cheapest, frontier, solve
from pruning_core.recipe import Recipe, SiteKey
from pruning_core.repair import NO_REPAIR, Repair


@dataclass(frozen=True)
class Terms:
    """What a shape may cost and what it may look like.

    Attributes:
        kind: what the budget is counted in.
        budget: the most that the whole model may come to, in that; or the highest perplexity.
        counted: what shall be as small as possible under a ceiling on perplexity.
        limits: on the widths of free sites.
        tokens: length of the prefill that operations are counted for.
        dense_bytes: of the dense model's parameters.
        latency: measured milliseconds, where they are asked for.
    """

    kind: BudgetKind
    budget: float
    counted: BudgetKind = BudgetKind.PARAMETERS
    limits: Limits = field(default_factory=Limits)
    tokens: int = 256
    dense_bytes: int = 0
    latency: Latency | None = None

    @property
    def spent(self) -> BudgetKind:
        """What the cost of a solution is counted in."""
        return self.counted if self.kind is BudgetKind.PERPLEXITY else self.kind

    def cost(self, site: Site, width: Width, anatomy: Anatomy, repair: Repair = NO_REPAIR) -> float:
        """Return what a site spends at a width; see `cost_of`."""
        return cost_of(self.spent, site, width, anatomy, self.tokens, self.latency, repair)

    def dense(self, anatomy: Anatomy) -> float:
        """Return what the dense model comes to, in what is spent."""
        widths = ((site, site.width(site.units, site.heads_per_unit)) for site in anatomy.sites)
        return _fixed(self, anatomy) + sum(self.cost(*pair, anatomy) for pair in widths)


@dataclass(frozen=True)
class Shape:
    """The best shape that was found.

    Attributes:
        sparsity: of every site.
        cost: of the whole model, in what the budget is counted in.
        increase: the predicted increase of the loss, nats per token.
        gap: by how much the best possible shape could be better, at most: as a fraction of D (see
            `prediction`), or of the cost under a ceiling on perplexity.
    """

    sparsity: Mapping[SiteKey, float]
    cost: float
    increase: float
    gap: float


def best_shape(terms: Terms, predictor: Predictor, recipe: Recipe, anatomy: Anatomy) -> Shape:
    """Return the best shape around what a recipe locks.

    Args:
        predictor: fitted under the recipe's scoring.
        recipe: its locked sites stay at their sparsities.

    Raises:
        PrunescopeError: if no shape meets the terms, or milliseconds have not been measured.
    """
    choices, fixed = _choices(terms, predictor, recipe, anatomy), _fixed(terms, anatomy)
    if terms.kind is not BudgetKind.PERPLEXITY:
        solution = solve(choices, terms.budget, fixed=fixed)
        return _shape(solution, predictor, _gap(solution.loss, solution.bound))
    wanted = math.log(terms.budget) - predictor.dense
    if wanted <= 0:
        raise PrunescopeError(
            f"The ceiling on perplexity is {terms.budget:.4g}, and the dense model has "
            f"{math.exp(predictor.dense):.4g}: raise the ceiling above it."
        )
    solution = cheapest(choices, predictor.apart(wanted), fixed=fixed)
    return _shape(solution, predictor, _gap(solution.cost, solution.bound))


def best_shapes(
    terms: Terms,
    predictor: Predictor,
    recipe: Recipe,
    anatomy: Anatomy,
    budgets: Sequence[float],
) -> tuple[Shape, ...]:
    """Return the frontier: the best shape for each of many budgets; see `best_shape`.

    Args:
        terms: not under a ceiling on perplexity; its own budget is not looked at.
        budgets: those that cannot be met are left out.
    """
    choices, fixed = _choices(terms, predictor, recipe, anatomy), _fixed(terms, anatomy)
    least = fixed + sum(min(choice.cost for choice in own) for own in choices.values())
    met = [budget for budget in budgets if budget >= least]
    solutions = frontier(choices, met, fixed=fixed) if met else ()
    return tuple(_shape(s, predictor, _gap(s.loss, s.bound)) for s in solutions)


def _choices(
    terms: Terms, predictor: Predictor, recipe: Recipe, anatomy: Anatomy
) -> dict[SiteKey, list[Choice]]:
    """Return what every site may become: what it costs then, and what it adds to the damage."""
    choices = {}
    for site in anatomy.sites:
        locked_at = recipe.at(site.key) if site.key in recipe.locks else None
        widths = site_widths(site, terms.limits, locked_at=locked_at)
        losses = predictor.alone(site.key, [width.sparsity for width in widths])
        choices[site.key] = [
            Choice(width.sparsity, terms.cost(site, width, anatomy, recipe.repair), float(loss))
            for width, loss in zip(widths, losses, strict=True)
        ]
    return choices


def _fixed(terms: Terms, anatomy: Anatomy) -> float:
    return fixed_cost(terms.spent, anatomy, terms.dense_bytes, terms.tokens, terms.latency)


def _shape(solution: Solution, predictor: Predictor, gap: float) -> Shape:
    increase = predictor.increase(solution.sparsity)
    return Shape(solution.sparsity, solution.cost, increase, gap)


def _gap(value: float, bound: float) -> float:
    return max((value - bound) / abs(value), 0.0) if value else 0.0
