"""Activation statistics in one streaming pass: forward only, a window at a time, nothing kept.

The input of a site's output projection is what its units hand on: a column of ``o_proj`` belongs to
a query head, a column of ``down_proj`` is a channel. Of every window only the mean and the variance
of each column are taken; all statistics are merged from those, in fp32 whatever the model's own
format (squares of fp16 activations overflow), so that any number of windows costs no memory.

For column j of N windows of L tokens each, ``m_j`` the mean over all of them:

    norms        s_j = 1/N     sum_windows sum_tokens x_j^2             Wanda, arXiv 2306.11695
    fluctuation  f_j = 1/(N-1) sum_windows sum_tokens (x_j - m_j)^2     FLAP, arXiv 2312.11983

The fluctuation is there a second time as FLAP's public code (CASIA-IVA-Lab/FLAP, lib/layerwrapper)
adds it up. With ``m_n`` the mean of the first n windows, it is a running value that starts at 0:

    c_1 = 0,    c_n = c_(n-1) * (n-2)/(n-1) + 1/n sum_tokens (x_j - m_n)^2

The first window counts nothing, and the others are held against a mean that has them in it already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.passes import Window, each_window, entering
from pruning_core.model.anatomy import Anatomy
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey


@dataclass(frozen=True)
class SiteActivations:
    """What enters one output projection, all fp32 [columns], in the units of the activations.

    Attributes:
        mean: over all tokens of all windows.
        norms: ``s_j``, the sum of squares over the tokens of a window, mean over the windows.
        fluctuation: ``f_j``, its sample variance over windows; of a single window the plain sum.
        published: ``c_j``, the fluctuation as FLAP's code adds it up; 0 for a single window.
    """

    mean: torch.Tensor
    norms: torch.Tensor
    fluctuation: torch.Tensor
    published: torch.Tensor


@dataclass(frozen=True)
class ActivationStatistics:
    """What one forward pass over the calibration windows leaves behind.

    Attributes:
        sites: statistics by site.
        windows: how many windows they are of.
    """

    sites: Mapping[SiteKey, SiteActivations]
    windows: int


@torch.no_grad()
def gather_activations(
    model: PreTrainedModel, anatomy: Anatomy, windows: torch.Tensor, tick: Tick = silent
) -> ActivationStatistics:
    """Run every window through the model and return the statistics of its output projections.

    Args:
        model: dense; it is left as it was.
        windows: int64 [samples, tokens].
        tick: hears one step per sample.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if an activation is not finite.
    """
    running = {site.output: _Running() for site in anatomy.sites}
    for window in each_window(model, windows, "listening", tick):
        with entering(model, running, partial(_take, running, window)):
            model(input_ids=window.ids, use_cache=False)
    sites = {site.key: running[site.output].statistics(len(windows)) for site in anatomy.sites}
    return ActivationStatistics(sites, len(windows))


class _Running:
    """The statistics of one site, merged window by window."""

    def __init__(self) -> None:
        # Without columns yet: the first window's give them theirs.
        self.mean = self.squares = self.spread = self.published = torch.zeros(())

    def add(self, before: int, tokens: int, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Merge one more window, given by its own mean and variance, with those `before` it."""
        count = before + 1
        drift = mean - self.mean
        self.mean = self.mean + drift / count
        # The deviations from another point than a window's own mean follow from its variance.
        self.squares = self.squares + tokens * (variance + mean.square())
        self.spread = self.spread + tokens * (variance + drift.square() * (before / count))
        if before:
            around = tokens * (variance + (mean - self.mean).square())
            self.published = self.published * ((before - 1) / before) + around / count
        else:
            self.published = torch.zeros_like(mean)

    def statistics(self, windows: int) -> SiteActivations:
        return SiteActivations(
            mean=self.mean,
            norms=self.squares / windows,
            fluctuation=self.spread / max(windows - 1, 1),
            published=self.published,
        )


def _take(
    running: Mapping[str, _Running], window: Window, module: str, inputs: torch.Tensor
) -> None:
    rows = inputs.flatten(0, -2).float()
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    variance, mean = torch.stack((variance, mean)).cpu()
    # Every activation is in these, and what is not finite stays so in a sum of squares.
    window.check(f"What enters {module} in", variance + mean.square())
    running[module].add(window.index, len(rows), mean, variance)
