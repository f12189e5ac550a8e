"""Losses of logits together with their gradients, in closed form.

The logits of a window are the largest tensor of a forward pass: tokens times vocabulary.
Automatic differentiation would go a dozen times through float32 copies of them; here a few rows at
a time are taken through a cache, and nothing of that size is made but the gradient itself.

Logits are [tokens, vocabulary] in any floating dtype; the arithmetic is in float32 or better, the
gradients are in the dtype of the logits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

CACHED_BLOCK = 1 << 18
"""Logits that are looked at at a time on a CPU: few enough to stay in its cache."""


@torch.no_grad()
def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return the language-model loss of a window and its gradient by the logits.

    Args:
        ids: int64 [tokens]; row ``i`` of the logits predicts ``ids[i + 1]``, the last row nothing.

    Returns:
        Mean cross-entropy in nats per predicted token, and ``(softmax - one hot) / predicted``.
    """
    predicted = len(ids) - 1
    targets = ids[1:].to(logits.device)[:, None]
    gradient = torch.zeros_like(logits)
    total = torch.zeros((), device=logits.device, dtype=torch.float64)
    for here in _blocks(logits[:-1]):
        own = _log_softmax(logits[:-1][here])
        total -= own.gather(1, targets[here]).sum()
        own.exp_().scatter_add_(1, targets[here], own.new_full((len(own), 1), -1.0))
        gradient[:-1][here] = own.div_(predicted)
    return float(total) / predicted, gradient


@torch.no_grad()
def divergence(dense: torch.Tensor, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return KL(dense || model) of the next-token distributions and its gradient by the logits.

    Returns:
        Nats per token, mean over the tokens, and ``(softmax(logits) - softmax(dense)) / tokens``.
    """
    tokens = len(logits)
    gradient = torch.empty_like(logits)
    total = torch.zeros((), device=logits.device, dtype=torch.float64)
    for here in _blocks(logits):
        target, own = _log_softmax(dense[here]), _log_softmax(logits[here])
        probabilities = target.exp()
        total += target.sub_(own).mul_(probabilities).sum()
        gradient[here] = own.exp_().sub_(probabilities).div_(tokens)
    return float(total) / tokens, gradient


def _blocks(logits: torch.Tensor) -> Iterator[slice]:
    rows, vocabulary = logits.shape
    step = max(CACHED_BLOCK // vocabulary, 1) if logits.device.type == "cpu" else rows
    for start in range(0, rows, max(step, 1)):
        yield slice(start, start + step)


def _log_softmax(rows: torch.Tensor) -> torch.Tensor:
    return F.log_softmax(rows, dim=-1, dtype=torch.promote_types(rows.dtype, torch.float32))
