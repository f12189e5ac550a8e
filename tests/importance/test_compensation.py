"""A masked site that makes up for its loss, against ridge regression solved for every mask anew."""

from __future__ import annotations

import pytest
import torch

from pruning_core.calibration.moments import gather_moments
from pruning_core.importance.compensation import Compensation
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.masking import DAMPING, MaskedDivergence
from pruning_core.model.anatomy import read_anatomy
from pruning_core.planning.resolving import Resolver
from pruning_core.planning.ridge import without_inputs
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.repair import Repair
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

COLUMNS = 12


@pytest.fixture
def inputs() -> torch.Tensor:
    """Return inputs that depend on each other, fp64 [tokens, columns]."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=draw)
    return (torch.randn(150, COLUMNS, generator=draw) @ mixing).double()


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(3)).double()


def repaired(inputs: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the outputs of the columns that stay, re-solved for this mask."""
    kept = (mask > 0.5).nonzero()[:, 0]
    products = (inputs.T @ inputs).float()
    return inputs[:, kept] @ without_inputs(weight, products, kept, 0.01, "w").double().T


MASK = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0]).double()


def test_what_is_handed_on_is_what_ridge_repair_makes_of_it(
    inputs: torch.Tensor, weight: torch.Tensor
) -> None:
    made = Compensation.of((inputs.T @ inputs).float(), MASK, 0.01, 1)
    torch.testing.assert_close(
        made(MASK, inputs) @ weight.T, repaired(inputs, weight, MASK), rtol=1e-4, atol=1e-4
    )


def test_the_gradient_is_what_one_column_more_or_less_would_do(
    inputs: torch.Tensor, weight: torch.Tensor
) -> None:
    """The loss is linear in the outputs, so the first order is all there is."""
    slope = torch.randn(len(inputs), 5, generator=torch.Generator().manual_seed(5)).double()
    made = Compensation.of((inputs.T @ inputs).float(), MASK, 0.01, 1)
    mask = MASK.clone().requires_grad_()
    ((made(mask, inputs) @ weight.T) * slope).sum().backward()
    assert mask.grad is not None
    before = (repaired(inputs, weight, MASK) * slope).sum()
    for column in range(COLUMNS):
        other = MASK.clone()
        other[column] = 1 - other[column]
        change = (repaired(inputs, weight, other) * slope).sum() - before
        signed = change if other[column] > 0.5 else -change
        torch.testing.assert_close(mask.grad[column], signed, rtol=1e-3, atol=1e-3)


def test_a_head_is_missed_as_a_whole(inputs: torch.Tensor, weight: torch.Tensor) -> None:
    heads = torch.tensor([1, 0, 1]).double()
    mask = heads.clone().requires_grad_()
    wide = mask.repeat_interleave(4)
    made = Compensation.of((inputs.T @ inputs).float(), wide, 0.01, 4)
    slope = torch.randn(len(inputs), 5, generator=torch.Generator().manual_seed(5)).double()
    ((made(wide, inputs) @ weight.T) * slope).sum().backward()
    assert mask.grad is not None
    before = (repaired(inputs, weight, heads.repeat_interleave(4)) * slope).sum()
    without = torch.tensor([0, 0, 1]).double().repeat_interleave(4)
    change = before - (repaired(inputs, weight, without) * slope).sum()
    torch.testing.assert_close(mask.grad[0], change, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_the_masked_model_is_the_pruned_and_repaired_one(family: str) -> None:
    model = tiny.tiny_model(family)
    windows = tiny.tokens(windows=3)
    bench = Workbench(model)
    moments = gather_moments(model, bench.anatomy, windows, hessian=True)
    dense = MaskedDivergence(model, bench.anatomy, windows, moments)
    site = bench.anatomy.by_key[SiteKey(1, SiteKind.MLP)]
    recipe = Recipe("tiny", "abc", repair=Repair.parse("ridge:prefix=dense"))
    evidence = Evidence(model, bench.anatomy, lambda _count, _tick: windows)
    plan = Resolver(
        model, bench.anatomy, "abc", model.get_parameter, lambda _calibration: evidence
    ).units(recipe.with_sparsity({site.key: 0.5}), random_map(bench.anatomy))
    mask = torch.ones(site.units, dtype=torch.float64)
    mask[plan.sites[site.key].removed] = 0
    found = dense.measure({site.key: mask}, [0, 1, 2])
    plain = MaskedDivergence(model, bench.anatomy, windows).measure({site.key: mask}, [0, 1, 2])
    logits = model(windows).logits.log_softmax(-1)
    bench.apply(plan)
    pruned = model(windows).logits.log_softmax(-1)
    expected = (logits.exp() * (logits - pruned)).sum(-1).mean()
    assert recipe.repair.damping == DAMPING
    assert found == pytest.approx(float(expected), rel=1e-3)
    assert found < plain


def test_gradients_reach_every_mask(inputs: torch.Tensor) -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    windows = tiny.tokens(windows=2)
    moments = gather_moments(model, anatomy, windows, hessian=True)
    draw = torch.Generator().manual_seed(0)
    masks, roots = {}, {}
    for site in anatomy.sites:
        count = site.units * max(site.heads_per_unit, 1)
        roots[site.key] = torch.zeros(count, requires_grad=True)
        hard = (torch.rand(count, generator=draw) < 0.7).float()
        masks[site.key] = hard + roots[site.key]
    nats = MaskedDivergence(model, anatomy, windows, moments).backward(masks, [0, 1])
    assert nats > 0
    for root in roots.values():
        assert root.grad is not None
        assert bool(root.grad.isfinite().all())
        assert float(root.grad.abs().max()) > 0
