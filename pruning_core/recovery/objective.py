"""The loss of a micro-batch and its gradient by the logits, in closed form.

``(1 - w) * cross-entropy of the learned tokens + w * KL(dense || trained)`` at the same places,
both as means over the learned tokens of the whole step, so that how a step is split into
micro-batches changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pruning_core.calibration.losses import divergence, next_token_loss
from pruning_core.recovery.lessons import Sample


def padded(samples: Sequence[Sample]) -> torch.Tensor:
    """Return samples as one batch, int64 [samples, tokens], filled up at their ends.

    What stands after a token changes nothing for it in a causal model, so no mask is needed.
    """
    return torch.nn.utils.rnn.pad_sequence([s.ids for s in samples], batch_first=True)


def objective(
    logits: torch.Tensor,
    dense: torch.Tensor | None,
    samples: Sequence[Sample],
    weight: float,
    tokens: int,
) -> tuple[float, torch.Tensor]:
    """Return the loss, in nats per learned token of the step, and its gradient.

    Args:
        logits: [samples, tokens, vocabulary], detached.
        dense: the dense model's, where `weight` is more than 0.
        weight: of the divergence from the dense model, 0 to 1.
        tokens: learned tokens in the whole step.
    """
    gradient = torch.zeros_like(logits)
    total = 0.0
    for row, sample in enumerate(samples):
        # The token before the first learned one predicts it; the last predicts nothing.
        here = slice(sample.learned - 1, len(sample.ids))
        share = sample.predicted / tokens
        if weight < 1:
            loss, own = next_token_loss(logits[row, here], sample.ids[here])
            gradient[row, here] += own.mul_((1 - weight) * share)
            total += (1 - weight) * share * loss
        if dense is not None:
            here = slice(here.start, here.stop - 1)
            loss, own = divergence(dense[row, here], logits[row, here])
            gradient[row, here] += own.mul_(weight * share)
            total += weight * share * loss
    return total, gradient
