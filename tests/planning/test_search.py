"""The best shape under a budget: it fits, it honours locks and limits, and nothing is better."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import product

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.planning.budget import BudgetKind, Limits, site_widths
from pruning_core.planning.curves import Curve, Curves
from pruning_core.planning.plan import make_plan
from pruning_core.planning.prediction import Predictor
from pruning_core.planning.search import Terms, best_shape, best_shapes
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from tests import tiny
from tests.maps import random_map

RECIPE = Recipe("tiny", "abc")


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(tiny.tiny_model())


@pytest.fixture(scope="module")
def predictor(anatomy: Anatomy) -> Predictor:
    draw = random.Random(3)
    curves = {
        site.key: Curve(
            tuple(zip((0.25, 0.5, 1.0), sorted(draw.random() for _ in range(3)), strict=True))
        )
        for site in anatomy.sites
    }
    return Predictor(Curves(3.0, curves), level=0.3, power=1.2)


def at_most(share: float, anatomy: Anatomy, **limits: object) -> Terms:
    terms = Terms(BudgetKind.PARAMETERS, 0.0, limits=Limits(**limits))  # type: ignore[arg-type]
    return replace(terms, budget=share * terms.dense(anatomy))


def parameters(anatomy: Anatomy, sparsity: object) -> int:
    recipe = RECIPE.with_sparsity(sparsity)  # type: ignore[arg-type]
    return make_plan(recipe, random_map(anatomy), anatomy).parameters


def test_dense_is_what_the_model_has(anatomy: Anatomy) -> None:
    assert Terms(BudgetKind.PARAMETERS, 0.0).dense(anatomy) == anatomy.parameters


@pytest.mark.parametrize("share", [0.95, 0.8, 0.7])
def test_the_shape_fits_and_costs_what_it_says(
    anatomy: Anatomy, predictor: Predictor, share: float
) -> None:
    terms = at_most(share, anatomy)
    shape = best_shape(terms, predictor, RECIPE, anatomy)
    assert parameters(anatomy, shape.sparsity) == shape.cost <= terms.budget
    assert shape.increase == pytest.approx(predictor.increase(shape.sparsity))
    assert 0 <= shape.gap < 1e-2


def test_no_other_shape_is_better(anatomy: Anatomy, predictor: Predictor) -> None:
    """Every shape of a model whose sites are locked but for three."""
    free = anatomy.sites[:3]
    recipe = replace(RECIPE, locks=frozenset(s.key for s in anatomy.sites[3:]))
    terms = at_most(0.9, anatomy, may_remove=True)
    shape = best_shape(terms, predictor, recipe, anatomy)
    best = math.inf
    for widths in product(*(site_widths(site, terms.limits) for site in free)):
        sparsity = {s.key: w.sparsity for s, w in zip(free, widths, strict=True)}
        saved = sum(s.parameters - w.parameters for s, w in zip(free, widths, strict=True))
        if anatomy.parameters - saved <= terms.budget:
            best = min(best, predictor.increase(sparsity))
    assert best <= shape.increase <= best * (1 + 1e-3)


def test_locked_sites_stay_where_they_are(anatomy: Anatomy, predictor: Predictor) -> None:
    key = SiteKey(1, SiteKind.MLP)
    recipe = replace(RECIPE.with_sparsity({key: 0.5}), locks=frozenset({key}))
    shape = best_shape(at_most(0.75, anatomy), predictor, recipe, anatomy)
    assert shape.sparsity[key] == anatomy.by_key[key].snap(0.5).sparsity


def test_limits_are_honoured(anatomy: Anatomy, predictor: Predictor) -> None:
    terms = at_most(0.8, anatomy, multiple=8, minimum={SiteKind.MLP: 0.5})
    shape = best_shape(terms, predictor, RECIPE, anatomy)
    for site in anatomy.of_kind(SiteKind.MLP):
        units = site.snap(shape.sparsity[site.key]).units
        assert units == site.units or units % 8 == 0
        assert units >= site.units / 2


def test_a_budget_that_cannot_be_met_is_told(anatomy: Anatomy, predictor: Predictor) -> None:
    with pytest.raises(PrunescopeError, match="least that this model can come to"):
        best_shape(at_most(0.01, anatomy), predictor, RECIPE, anatomy)


def test_a_ceiling_on_perplexity_is_kept_to_with_as_little_as_possible(
    anatomy: Anatomy, predictor: Predictor
) -> None:
    dense = math.exp(predictor.dense)
    sizes = []
    for factor in (1.5, 3.0):
        terms = Terms(BudgetKind.PERPLEXITY, factor * dense)
        shape = best_shape(terms, predictor, RECIPE, anatomy)
        assert math.exp(predictor.dense + shape.increase) <= factor * dense * (1 + 1e-9)
        sizes.append(parameters(anatomy, shape.sparsity))
        assert shape.cost == sizes[-1]
    assert anatomy.parameters > sizes[0] > sizes[1]


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_a_ceiling_under_dense_is_told(
    anatomy: Anatomy, predictor: Predictor, factor: float
) -> None:
    terms = Terms(BudgetKind.PERPLEXITY, factor * math.exp(predictor.dense))
    with pytest.raises(PrunescopeError, match="raise the ceiling"):
        best_shape(terms, predictor, RECIPE, anatomy)


def test_the_frontier_rises_and_leaves_out_what_cannot_be(
    anatomy: Anatomy, predictor: Predictor
) -> None:
    terms = at_most(1.0, anatomy)
    budgets = [share * terms.budget for share in (0.01, 0.6, 0.7, 0.8, 0.9, 1.0)]
    shapes = best_shapes(terms, predictor, RECIPE, anatomy, budgets)
    assert 1 < len(shapes) < len(budgets)
    increases = [shape.increase for shape in shapes]
    assert increases == sorted(increases, reverse=True)
    assert increases[-1] == 0.0
