"""OBS against a plain greedy elimination that solves every least-squares problem anew."""

from __future__ import annotations

import pytest
import torch

from pruning_core.importance.estimators import obs
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.scoring import score
from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import Scoring, SiteKind
from tests import tiny

DAMPING = 0.01


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix [out, in] and the products [in, in] of inputs that depend on each other."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 80, generator=draw) @ torch.randn(80, 80, generator=draw)
    inputs = inputs * torch.logspace(0, -1, 80)
    return torch.randn(12, 80, generator=draw).double(), inputs.T @ inputs


def loss_without(weight: torch.Tensor, products: torch.Tensor, gone: list[int]) -> float:
    """Return the least damped error of the outputs once columns have left."""
    system = products.double() / products.diagonal().mean()
    system = system + DAMPING * torch.eye(len(system), dtype=torch.float64)
    left = [column for column in range(len(system)) if column not in gone]
    lost, inner = system[gone][:, left], system[left][:, left]
    schur = system[gone][:, gone] - lost @ torch.linalg.solve(inner, lost.T) if left else system
    part = weight[:, gone]
    return float(((part @ schur) * part).sum())


def plain_greedy(weight: torch.Tensor, products: torch.Tensor, width: int) -> list[int]:
    gone: list[int] = []
    order: list[int] = []
    runs = {run: list(range(run * width, run * width + width)) for run in range(80 // width)}
    while len(order) < len(runs):
        left = [run for run in runs if run not in order]
        losses = {run: loss_without(weight, products, gone + runs[run]) for run in left}
        best = min(left, key=lambda run: losses[run])
        order.append(best)
        gone += runs[best]
    return order


@pytest.mark.parametrize("width", [1, 8])
def test_the_order_is_that_of_plain_greedy_elimination(
    problem: tuple[torch.Tensor, torch.Tensor], width: int
) -> None:
    weight, products = problem
    inverse = obs.damped_inverse(products, DAMPING, "w")
    costs = (
        obs.column_costs(weight, inverse) if width == 1 else obs.run_costs(weight, inverse, width)
    )
    assert costs.argsort().tolist() == plain_greedy(weight, products, width)


def test_the_first_cost_is_the_loss_it_makes(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    weight, products = problem
    costs = obs.column_costs(weight, obs.damped_inverse(products, DAMPING, "w"))
    first = int(costs.argmin())
    assert float(costs.min()) == pytest.approx(loss_without(weight, products, [first]), rel=1e-6)


def test_columns_in_batches_and_one_by_one_are_the_same(
    problem: tuple[torch.Tensor, torch.Tensor],
) -> None:
    weight, products = problem
    inverse = obs.damped_inverse(products, DAMPING, "w")
    torch.testing.assert_close(
        obs.column_costs(weight, inverse), obs.run_costs(weight, inverse, 1), rtol=1e-9, atol=0
    )


def test_of_two_that_stand_in_for_each_other_one_is_kept() -> None:
    inputs = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    inputs[:, 5] = inputs[:, 1] * 3  # large together, and each is all there is of the other
    weight = torch.ones(2, 6).double()
    inverse = obs.damped_inverse(inputs.T @ inputs, 1e-4, "w")
    greedy = obs.column_costs(weight, inverse)
    assert {int(greedy.argmin()), int(greedy.argmax())} == {1, 5} or int(greedy.argmin()) in (1, 5)
    single = (weight.square().sum(0) / inverse.diagonal()).argsort()[:2].tolist()
    assert set(single) == {1, 5}
    assert not {1, 5} <= set(greedy.argsort()[:3].tolist())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "falcon"])
@pytest.mark.parametrize("order", ["greedy", "single"])
def test_every_unit_and_head_has_a_score(family: str, order: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    evidence = Evidence(model, anatomy, lambda _count, _tick: tiny.tokens(windows=3))
    made = score(Scoring("obs", (("order", order),)), evidence, "abc")
    for site in anatomy.sites:
        found = made.sites[site.key]
        assert len(found.units) == site.units
        assert bool((found.units > 0).all())
        assert float(found.units.mean()) == pytest.approx(1)
        if site.key.kind is SiteKind.ATTENTION:
            assert found.heads is not None
            assert len(found.heads) == site.units * site.heads_per_unit
