"""Perplexity and next-token accuracy of logits. fp32 statistics, whatever the model's dtype."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from pruning_core.evaluation.intervals import perplexity_of

CACHED_BLOCK = 1 << 18
"""Logits that are scored at a time on a CPU, in fp32: few enough to stay in its cache."""

RUN = 128
"""A row of logits is searched in runs of so many."""


@dataclass(frozen=True)
class WindowQuality:
    """One window.

    Attributes:
        nll: mean negative log-likelihood of the scored tokens, nats.
        correct: scored tokens whose most probable prediction was right.
        scored: scored tokens: all but the first.
    """

    nll: float
    correct: int
    scored: int


@dataclass(frozen=True)
class Quality:
    """Quality over the windows of a protocol, in their order."""

    windows: tuple[WindowQuality, ...]

    @cached_property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood over all scored tokens."""
        total = sum(window.nll * window.scored for window in self.windows)
        mean = total / self.tokens
        # A wrecked model may exceed what a float's exponent holds; infinity says so.
        return perplexity_of(mean)

    @cached_property
    def accuracy(self) -> float:
        """Share of scored tokens predicted right, 0 to 1."""
        return sum(window.correct for window in self.windows) / self.tokens

    @cached_property
    def tokens(self) -> int:
        """Scored tokens."""
        return sum(window.scored for window in self.windows)


def window_quality(logits: torch.Tensor, ids: torch.Tensor) -> WindowQuality:
    """Score one window's logits [tokens, vocabulary] against its ids [tokens]."""
    device, targets = logits.device, ids[1:].to(logits.device)
    logits = logits[:-1]
    scored, vocabulary = logits.shape
    runs = -(-vocabulary // RUN)
    rows = max(CACHED_BLOCK // (runs * RUN), 1) if device.type == "cpu" else scored
    highest = torch.empty(scored, runs, device=device)
    total = torch.empty(scored, device=device)
    # One buffer for all blocks: fresh memory costs the system more than the arithmetic in it.
    padded = torch.full((min(rows, scored), runs * RUN), -torch.inf, device=device)
    for start in range(0, scored, rows):
        here = slice(start, min(start + rows, scored))
        block = padded[: here.stop - start]
        inside = block[:, :vocabulary].copy_(logits[here])
        highest[here] = block.view(-1, runs, RUN).amax(-1)
        total[here] = inside.sub_(highest[here].amax(-1, keepdim=True)).exp_().sum(-1)
    own = logits.gather(1, targets[:, None])[:, 0].float()
    nll = total.log() + highest.amax(-1) - own
    correct = int((_first_highest(logits, highest) == targets).sum())
    return WindowQuality(float(nll.mean()), correct, scored)


def _first_highest(logits: torch.Tensor, highest: torch.Tensor) -> torch.Tensor:
    """Return ``logits.argmax(-1)``, [rows], given every run's highest logit, [rows, runs].

    Like `torch.argmax` it takes the first of equals, in a fraction of its time.
    """
    run = highest.argmax(-1, keepdim=True)
    columns = run * RUN + torch.arange(RUN, device=logits.device)  # [rows, RUN]
    inside = logits.gather(1, columns.clamp_max(logits.shape[1] - 1)).float().argmax(-1)
    return run[:, 0] * RUN + inside
