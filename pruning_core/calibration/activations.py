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

One number that is not finite would spread over all windows, so the pass stops at the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Site
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
    collector = _Collector(anatomy, len(windows), model.dtype)
    with collector.listening(model):
        for sample, window in enumerate(windows):
            tick("listening", sample, len(windows))
            collector.begin(sample)
            model(input_ids=window[None].to(model.device), use_cache=False)
    tick("listening", len(windows), len(windows))
    return collector.statistics()


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


class _Collector:
    """Hears what enters the output projections and adds it up."""

    def __init__(self, anatomy: Anatomy, samples: int, dtype: torch.dtype) -> None:
        self._sites = anatomy.sites
        self._samples = samples
        self._dtype = str(dtype).removeprefix("torch.")
        self._sample = 0
        self._running = {site.key: _Running() for site in anatomy.sites}

    @contextmanager
    def listening(self, model: PreTrainedModel) -> Iterator[None]:
        """Take note of what enters every output projection."""
        with ExitStack() as undo:
            for site in self._sites:
                module = model.get_submodule(site.output)
                hook = module.register_forward_pre_hook(partial(self._take, site))
                undo.callback(hook.remove)
            yield

    def begin(self, sample: int) -> None:
        self._sample = sample

    def _take(self, site: Site, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].flatten(0, -2).float()
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        variance, mean = torch.stack((variance, mean)).cpu()
        # Every activation is in these, and what is not finite stays so in a sum of squares.
        self._check(site, variance + mean.square())
        self._running[site.key].add(self._sample, len(rows), mean, variance)

    def _check(self, site: Site, values: torch.Tensor) -> None:
        if not values.isfinite().all():
            raise PrunescopeError(
                f"What enters {site.output} in calibration window {self._sample + 1} of "
                f"{self._samples} is not finite in the model's {self._dtype}, so nothing can be "
                "ranked by it. Load the model in bfloat16 or float32, whose range is larger; if it "
                "is in one of them already, its weights are damaged: load them afresh."
            )

    def statistics(self) -> ActivationStatistics:
        sites = {}
        for key, running in self._running.items():
            sites[key] = SiteActivations(
                mean=running.mean,
                norms=running.squares / self._samples,
                fluctuation=running.spread / max(self._samples - 1, 1),
                published=running.published,
            )
        return ActivationStatistics(sites, self._samples)
