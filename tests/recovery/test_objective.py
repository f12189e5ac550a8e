"""The loss and its gradient against automatic differentiation; padding that changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pruning_core.recovery.lessons import Sample
from pruning_core.recovery.objective import objective, padded

VOCABULARY = 11


def samples() -> list[Sample]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((7, 1), (5, 3), (4, 3))
    return [
        Sample(torch.randint(0, VOCABULARY, (length,), generator=draw), learned)
        for length, learned in shapes
    ]


def by_hand(
    logits: torch.Tensor, dense: torch.Tensor | None, weight: float, tokens: int
) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row, sample in enumerate(samples()):
        for place in range(sample.learned, len(sample.ids)):
            own = F.log_softmax(logits[row, place - 1], -1)
            total = total - (1 - weight) * own[sample.ids[place]]
            if dense is not None:
                there = F.log_softmax(dense[row, place - 1], -1)
                total = total + weight * (there.exp() * (there - own)).sum()
    return total / tokens


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_and_gradient_are_those_of_the_formula(weight: float) -> None:
    batch = samples()
    draw = torch.Generator().manual_seed(1)
    shape = (*padded(batch).shape, VOCABULARY)
    logits = torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)
    dense = torch.randn(shape, generator=draw, dtype=torch.float64) if weight else None
    tokens = 40  # of a step of which these are a part
    expected = by_hand(logits, dense, weight, tokens)
    expected.backward()
    loss, gradient = objective(logits.detach(), dense, batch, weight, tokens)
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradient, logits.grad, atol=1e-12, rtol=0)


def test_only_what_is_learned_counts() -> None:
    batch = samples()
    logits = torch.randn(*padded(batch).shape, VOCABULARY, dtype=torch.float64)
    _loss, gradient = objective(logits, None, batch, 0.0, 10)
    told = gradient.abs().sum(-1) > 0
    for row, sample in enumerate(batch):
        assert told[row].nonzero()[:, 0].tolist() == list(
            range(sample.learned - 1, len(sample.ids) - 1)
        )


def test_samples_are_filled_up_at_their_ends() -> None:
    batch = samples()
    ids = padded(batch)
    assert ids.shape == (3, 7)
    assert all(torch.equal(ids[row, : len(s.ids)], s.ids) for row, s in enumerate(batch))
