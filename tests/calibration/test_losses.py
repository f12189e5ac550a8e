from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pruning_core.calibration import losses


@pytest.fixture(params=[1, 60, 1 << 18], ids=["row by row", "few rows", "whole"])
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CACHED_BLOCK", request.param)


def logits(seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(9, 23, generator=draw, dtype=torch.float64)).to(dtype)


@pytest.mark.usefixtures("_block")
def test_the_loss_and_its_gradient_are_those_of_autograd() -> None:
    ids = torch.randint(23, (9,), generator=torch.Generator().manual_seed(3))
    leaf = logits(1).requires_grad_(True)
    expected = F.cross_entropy(leaf[:-1], ids[1:])
    expected.backward()
    loss, gradient = losses.next_token_loss(leaf.detach(), ids)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("_block")
def test_the_divergence_and_its_gradient_are_those_of_autograd() -> None:
    leaf, dense = logits(1).requires_grad_(True), logits(2)
    expected = F.kl_div(
        leaf.log_softmax(-1), dense.log_softmax(-1), reduction="batchmean", log_target=True
    )
    expected.backward()
    nats, gradient = losses.divergence(dense, leaf.detach())
    assert nats == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-10, atol=1e-12)


def test_the_gradient_has_the_dtype_of_the_logits_and_the_sums_have_not() -> None:
    rough = logits(1, torch.bfloat16)
    ids = torch.arange(9)
    loss, gradient = losses.next_token_loss(rough, ids)
    assert gradient.dtype == torch.bfloat16
    assert loss == pytest.approx(float(F.cross_entropy(rough[:-1].double(), ids[1:])), rel=1e-6)


def test_a_model_does_not_diverge_from_itself() -> None:
    nats, gradient = losses.divergence(logits(1), logits(1))
    assert nats == 0
    assert not gradient.any()
