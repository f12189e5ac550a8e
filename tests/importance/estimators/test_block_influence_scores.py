"""Block influence: one number a layer, by either measure, the same for all it is made of."""

from __future__ import annotations

import pytest
import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.registry import Scored, estimator
from pruning_core.model.anatomy import read_anatomy
from tests.golden import vectors

MEASURES = ["block-influence", "angular"]


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    model = vectors.model("gqa")
    return Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())


def run(evidence: Evidence, **given: object) -> Scored:
    method = estimator("block-influence")
    assert method.score is not None
    return method.score(evidence, method.settings(given))


@pytest.mark.parametrize("measure", MEASURES)
def test_every_unit_and_head_has_its_layers_score(evidence: Evidence, measure: str) -> None:
    scored = run(evidence, measure=measure)
    assert scored.layers is not None
    assert scored.layers.shape == (3,)
    assert scored.layers.dtype == torch.float32
    for key, site in scored.sites.items():
        for values in (site.units, site.heads):
            assert values is None or set(values.tolist()) == {float(scored.layers[key.layer])}


def test_each_measure_is_the_golden_one(evidence: Evidence) -> None:
    golden = vectors.case("shortgpt")
    block, angular = (run(evidence, measure=measure).layers for measure in MEASURES)
    assert block is not None
    assert angular is not None
    torch.testing.assert_close(block.double(), golden["bi_mean"], rtol=1e-4, atol=0)
    expected = golden["angular_last_token_n1_sum"] / len(vectors.tokens())
    torch.testing.assert_close(angular.double(), expected, rtol=1e-3, atol=0)


def test_both_measures_share_one_pass() -> None:
    model, passes = vectors.model("gqa"), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    shared = Evidence(model, read_anatomy(model), lambda _count, _tick: vectors.tokens())
    for measure in MEASURES:
        run(shared, measure=measure)
    assert len(passes) == len(vectors.tokens())
