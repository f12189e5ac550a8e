"""Predictions: the formulas at the end of the day, and what measured recipes teach."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from pruning_core.planning.curves import Curve, Curves
from pruning_core.planning.prediction import LIMIT, Observed, additive, fit
from pruning_core.recipe import SiteKey, SiteKind

KEYS = [SiteKey(layer, kind) for layer in range(6) for kind in SiteKind]
CURVES = Curves(
    3.0,
    {key: Curve(((0.5, 0.01 * (i + 1)), (1.0, 0.05 * (i + 1) ** 2))) for i, key in enumerate(KEYS)},
)


def recipe(seed: int) -> dict[SiteKey, float]:
    draw = random.Random(seed)
    return {key: draw.random() for key in KEYS}


def limited(increase: float) -> float:
    return increase / (1 + max(increase, 0) / LIMIT)


def taught(level: float, power: float, count: int, noise: float = 0.0) -> list[Observed]:
    """Return recipes of a model whose sites add up as the formula says."""
    draw = random.Random(99)
    runs = []
    for seed in range(count):
        added = sum(limited(float(CURVES.sites[k].at(s))) for k, s in recipe(seed).items())
        increase = math.exp(level + draw.gauss(0, noise)) * added**power
        runs.append(Observed(recipe(seed), increase))
    return runs


def test_the_additive_prediction_is_the_sum_of_the_curves() -> None:
    wanted = sum(float(CURVES.sites[key].at(s)) for key, s in recipe(1).items())
    assert additive(CURVES).increase(recipe(1)) == pytest.approx(wanted)


def test_dense_costs_nothing_before_and_after_learning() -> None:
    for predictor in (additive(CURVES), fit(CURVES, ()), fit(CURVES, taught(0.5, 1.3, 30))):
        assert predictor.increase({}) == 0.0
        assert predictor.dense == 3.0


def test_without_recipes_sites_add_up_each_up_to_the_limit() -> None:
    predictor = fit(CURVES, ())
    wanted = sum(limited(float(CURVES.sites[key].at(s))) for key, s in recipe(1).items())
    assert predictor.increase(recipe(1)) == pytest.approx(wanted)
    assert predictor.error is None


@pytest.mark.parametrize(("level", "power"), [(0.4, 1.1), (-0.2, 1.4), (0.0, 1.0)])
def test_recipes_teach_how_sites_add_up(level: float, power: float) -> None:
    predictor = fit(CURVES, taught(level, power, 60))
    assert (predictor.level, predictor.power) == pytest.approx((level, power), abs=0.05)
    unseen = taught(level, power, 80)[60:]
    for run in unseen:
        assert predictor.increase(run.sparsity) == pytest.approx(run.increase, rel=0.05)


def test_one_recipe_moves_the_prediction_only_so_far() -> None:
    wild = taught(3.0, 1.0, 1)
    before = fit(CURVES, ()).increase(wild[0].sparsity)
    after = fit(CURVES, wild).increase(wild[0].sparsity)
    assert before < after < wild[0].increase


def test_the_told_error_is_that_of_leaving_one_out() -> None:
    runs = taught(0.3, 1.2, 12, noise=0.3)
    off = []
    for left_out in range(len(runs)):
        others = fit(CURVES, runs[:left_out] + runs[left_out + 1 :])
        run = runs[left_out]
        off.append(abs(others.increase(run.sparsity) / run.increase - 1))
    assert fit(CURVES, runs).error == pytest.approx(float(np.median(off)), rel=1e-6)
    assert fit(CURVES, runs[:7]).error is None


def test_recipes_that_cost_nothing_or_less_teach_nothing() -> None:
    runs = [Observed({}, 0.0), Observed(recipe(0), -0.1), Observed({}, 0.5)]
    assert fit(CURVES, runs) == fit(CURVES, ())


def test_apart_undoes_together() -> None:
    predictor = fit(CURVES, taught(0.4, 1.2, 30))
    for added in (0.001, 0.3, 7.0):
        assert predictor.apart(predictor.together(added)) == pytest.approx(added)


def test_the_order_of_recipes_is_that_of_the_sum() -> None:
    predictor = fit(CURVES, taught(0.4, 1.2, 30))
    recipes = [recipe(seed) for seed in range(50)]
    by_sum = sorted(recipes, key=predictor.added)
    assert sorted(recipes, key=predictor.increase) == by_sum


def test_a_site_alone_is_its_curve_up_to_the_limit() -> None:
    predictor, key = fit(CURVES, ()), KEYS[-1]
    steps = [0.0, 0.5, 0.7, 1.0]
    wanted = [limited(float(value)) for value in CURVES.sites[key].at(steps)]
    assert predictor.alone(key, steps) == pytest.approx(wanted)
    assert max(predictor.alone(key, steps)) < LIMIT
