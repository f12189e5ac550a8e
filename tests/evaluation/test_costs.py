"""The cost side of a plan: what is counted is right, what nothing makes faster is called so."""

from __future__ import annotations

import json

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.costs import TOKENS, Costs, measure_costs
from pruning_core.evaluation.two_four import Gain
from pruning_core.planning.plan import Cost, make_plan
from pruning_core.recipe import STRUCTURED, Pattern, Recipe
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

COST = Cost(100, 400, 800)


def test_counts_are_those_of_the_model_and_both_phases_are_timed() -> None:
    bench = Workbench(tiny.tiny_model())
    shares = {site.key: 0.5 for site in bench.anatomy.sites}
    recipe = Recipe("tiny", "abc").with_sparsity(shares)
    plan = make_plan(recipe, random_map(bench.anatomy), bench.anatomy)
    found = measure_costs(bench, plan, batch=2, length=16)
    assert bench.plan is None
    assert found.dense.parameters == bench.model.num_parameters()
    bench.apply(plan)
    assert found.pruned.parameters == bench.model.num_parameters()
    assert found.pruned.operations < found.dense.operations
    values = json.loads(json.dumps(found.as_dict()))
    assert [(row["phase"], row["batch"], row["length"]) for row in values["speeds"]] == [
        ("prefill", 2, 16),
        ("decode", 2, 16),
    ]
    assert values["verdict"] == ""
    assert values["pass_bytes"] is None
    assert values["two_four"] == []


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_zeros_make_nothing_faster(pattern: str) -> None:
    costs = Costs(Pattern.parse(pattern), COST, COST, (), None, ())
    assert costs.verdict.startswith("0 % faster and no smaller")
    assert "2:4 kernels" not in costs.verdict
    assert not Costs(STRUCTURED, COST, COST, (), None, ()).verdict


def test_what_kernels_would_gain_is_weighed_by_how_many_matrices_there_are() -> None:
    gains = tuple(
        Gain(
            shape,
            count,
            tokens,
            dense_ms=1.0,
            sparse_ms=4.0,
            dense_captured_ms=dense,
            sparse_captured_ms=1.0,
            error=0.0,
        )
        for tokens in TOKENS
        for shape, count, dense in (((64, 64), 3, 1.0), ((64, 128), 1, 3.0))
    )
    verdict = Costs(Pattern.parse("2:4"), COST, COST, (), None, gains).verdict
    assert "at 256 tokens 1.50 times as fast inside a CUDA graph" in verdict
    assert "0.25 times called one by one" in verdict


def test_a_workload_of_nothing_is_refused() -> None:
    bench = Workbench(tiny.tiny_model())
    recipe = Recipe("tiny", "abc")
    plan = make_plan(recipe, random_map(bench.anatomy), bench.anatomy)
    with pytest.raises(PrunescopeError, match="The batch to time at is 0"):
        measure_costs(bench, plan, batch=0)
