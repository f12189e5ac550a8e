"""Samples of activations: what enters the output projections at a few token positions, kept as is.

Methods that compare whole activation patterns (mutual information, correlation) need single values,
which no running sum can give. They are taken at positions drawn from a seed, the same at every
site, from one forward pass over the windows that have any; memory is bounded by how many are drawn.

One number that is not finite would make every comparison meaningless, so the pass stops there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Site
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey


@torch.no_grad()
def gather_samples(
    model: PreTrainedModel,
    anatomy: Anatomy,
    windows: torch.Tensor,
    tokens: int,
    seed: int,
    tick: Tick = silent,
) -> Mapping[SiteKey, torch.Tensor]:
    """Run the windows through the model and return what enters every output projection.

    Args:
        model: dense; it is left as it was.
        windows: int64 [samples, tokens].
        tokens: positions to draw out of all windows; all there are, if that is fewer.
        seed: draws the positions.
        tick: hears one step per sample.

    Returns:
        By site fp32 [positions, columns of the output projection], on the CPU, the positions in the
        order of the text.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if an activation is not finite.
    """
    draw = torch.Generator().manual_seed(seed)
    positions = torch.randperm(windows.numel(), generator=draw)[:tokens].sort().values
    collector = _Collector(anatomy, str(model.dtype).removeprefix("torch."))
    length = windows.shape[1]
    with collector.listening(model):
        for sample, window in enumerate(windows):
            tick("sampling", sample, len(windows))
            own = positions[positions // length == sample] % length
            if len(own):
                collector.begin(own, f"window {sample + 1} of {len(windows)}")
                model(input_ids=window[None].to(model.device), use_cache=False)
    tick("sampling", len(windows), len(windows))
    return collector.samples()


class _Collector:
    """Hears what enters the output projections and keeps the rows that were drawn."""

    def __init__(self, anatomy: Anatomy, dtype: str) -> None:
        self._sites = anatomy.sites
        self._dtype = dtype
        self._positions = torch.empty(0, dtype=torch.int64)
        self._where = ""
        self._rows: dict[SiteKey, list[torch.Tensor]] = {site.key: [] for site in anatomy.sites}

    @contextmanager
    def listening(self, model: PreTrainedModel) -> Iterator[None]:
        """Take rows of what enters every output projection."""
        with ExitStack() as undo:
            for site in self._sites:
                module = model.get_submodule(site.output)
                hook = module.register_forward_pre_hook(partial(self._take, site))
                undo.callback(hook.remove)
            yield

    def begin(self, positions: torch.Tensor, where: str) -> None:
        self._positions, self._where = positions, where

    def _take(self, site: Site, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        entering = inputs[0].flatten(0, -2)
        rows = entering[self._positions.to(entering.device)].float().cpu()
        if not rows.isfinite().all():
            raise PrunescopeError(
                f"What enters {site.output} in calibration {self._where} is not finite in the "
                f"model's {self._dtype}, so nothing can be ranked by it. Load the model in "
                "bfloat16 or float32, whose range is larger; if it is in one of them already, its "
                "weights are damaged: load them afresh."
            )
        self._rows[site.key].append(rows)

    def samples(self) -> dict[SiteKey, torch.Tensor]:
        return {key: torch.cat(rows) for key, rows in self._rows.items()}
