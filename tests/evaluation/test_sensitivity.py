"""What predictions are made of: measured one by one, as a full measurement would have it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from pruning_core.evaluation.live import LiveEvaluator
from pruning_core.evaluation.perplexity import measure_windows
from pruning_core.evaluation.sensitivity import Sensitivity, loss, random_recipes
from pruning_core.planning.allocation import overall, unit_places
from pruning_core.planning.plan import UnitPlan, make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

WINDOWS = tiny.tokens(windows=3)
LEVELS, REFINEMENTS, PRACTICE = (0.5, 1.0), 3, 4


class Model:
    """A tiny model with a record of nothing yet."""

    def __init__(self) -> None:
        self.bench = Workbench(tiny.tiny_model())
        self.places = unit_places(self.bench.anatomy)
        scores = random_map(self.bench.anatomy)

        def plan(sparsity: Mapping[SiteKey, float]) -> UnitPlan:
            recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
            return make_plan(recipe, scores, self.bench.anatomy)

        self.plan = plan
        self.known = Sensitivity(
            LiveEvaluator(self.bench, WINDOWS),
            self.bench.anatomy,
            plan,
            self.places,
            levels=LEVELS,
            refinements=REFINEMENTS,
            practice=PRACTICE,
        )

    def full(self, sparsity: Mapping[SiteKey, float]) -> float:
        self.bench.apply(self.plan(sparsity))
        return loss(measure_windows(self.bench.model, WINDOWS))


@pytest.fixture
def model() -> Model:
    return Model()


def test_all_is_measured_step_by_step_and_counted(model: Model) -> None:
    total = model.known.left
    sites = len(model.bench.anatomy.sites)
    assert total == len(LEVELS) * sites + REFINEMENTS + PRACTICE
    for done in range(1, total):
        assert model.known.step()
        assert (model.known.done, model.known.left) == (done, total - done)
    assert not model.known.step()
    assert model.known.left == 0
    assert len(model.known.observed) == PRACTICE


def test_points_and_practice_are_what_full_measurements_say(model: Model) -> None:
    while model.known.step():
        pass
    curves = model.known.curves
    assert curves is not None
    assert curves.dense == pytest.approx(model.full({}), rel=1e-12)
    for key in list(curves.sites)[::5]:
        for sparsity, increase in curves.sites[key].points:
            measured = model.full({key: sparsity}) - curves.dense
            assert increase == pytest.approx(measured, abs=1e-12)
    for run in model.known.observed:
        measured = model.full(run.sparsity) - curves.dense
        assert run.increase == pytest.approx(measured, abs=1e-12)


def test_refinements_go_where_the_loss_rises_most(model: Model) -> None:
    levels = len(LEVELS) * len(model.bench.anatomy.sites)
    for _ in range(levels):
        model.known.step()
    before = model.known.curves
    assert before is not None
    rises = {
        key: max(
            abs(b[1] - a[1])
            for a, b in zip(((0, 0), *curve.points), curve.points, strict=False)
            if model.bench.anatomy.by_key[key].snap((a[0] + b[0]) / 2).sparsity not in (a[0], b[0])
        )
        for key, curve in before.sites.items()
    }
    model.known.step()
    after = model.known.curves
    assert after is not None
    changed = [key for key in after.sites if after.sites[key] != before.sites[key]]
    assert changed == [max(rises, key=lambda key: rises[key])]


def test_a_predictor_is_there_once_two_levels_are(model: Model) -> None:
    points = 2 * len(model.bench.anatomy.sites)
    for _ in range(points - 1):
        model.known.step()
        assert model.known.predictor is None
    model.known.step()
    assert model.known.predictor is not None
    while model.known.step():
        pass
    assert model.known.predictor.power != 1.0


def test_what_is_measured_otherwise_teaches_too(model: Model) -> None:
    for _ in range(2 * len(model.bench.anatomy.sites)):
        model.known.step()
    recipe = {SiteKey(0, SiteKind.MLP): 0.5, SiteKey(1, SiteKind.MLP): 0.5}
    model.known.observe(recipe, 0.7)
    model.known.observe(recipe, 0.7)
    model.known.observe(recipe, math.inf)
    assert [run.increase for run in model.known.observed] == [0.7]
    assert model.known.predictor is not None
    assert model.known.predictor.level != 0.0


def test_a_cancelled_step_loses_and_counts_nothing(model: Model) -> None:
    model.known.step()

    def stop(*_: object) -> None:
        raise Cancelled

    total = model.known.left
    with pytest.raises(Cancelled):
        model.known.step(stop)
    assert model.known.left == total
    assert model.known.step()


def test_random_recipes_reach_what_is_drawn_and_repeat(model: Model) -> None:
    drawn = random_recipes(model.places, 20, seed=5, between=(0.2, 0.4))
    assert drawn == random_recipes(model.places, 20, seed=5, between=(0.2, 0.4))
    assert drawn != random_recipes(model.places, 20, seed=6, between=(0.2, 0.4))
    shares = [overall(model.places, recipe) for recipe in drawn]
    assert all(0.15 < share < 0.45 for share in shares)
    assert len({round(share, 3) for share in shares}) > 10
