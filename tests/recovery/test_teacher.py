"""The dense twin: the same tensors, and dense whatever is done to the model beside it."""

from __future__ import annotations

import pytest
import torch

from pruning_core.recovery.teacher import twin_of
from tests import tiny
from tests.recovery.subjects import bench_of, logits, narrowed, state_of, thinned

FAMILIES = [*sorted(tiny.FAMILIES), *sorted(tiny.MIXTURES), "falcon, alibi", "baichuan, alibi"]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_stays_dense_and_shares_every_tensor(name: str) -> None:
    bench = bench_of(name)
    dense = logits(bench.model)
    twin = twin_of(bench.model)
    theirs = dict(twin.named_parameters())
    assert all(theirs[name] is own for name, own in bench.model.named_parameters())
    held = {id(module) for module in bench.model.modules()}
    assert held.isdisjoint(id(module) for module in twin.modules())
    for plan in (narrowed(bench), thinned(bench)):
        bench.apply(plan)
        assert not torch.equal(logits(bench.model), dense)
        assert torch.equal(logits(twin), dense)
        bench.restore()


def test_making_it_leaves_the_model_as_it_was() -> None:
    bench = bench_of()
    state = state_of(bench.model)
    twin_of(bench.model)
    after = state_of(bench.model)
    assert state["own"] == after["own"]
    assert state["modules"] == after["modules"]
