"""Samples of activations: what enters the output projections at a few token positions, kept as is.

Methods that compare whole activation patterns (mutual information, correlation) need single values,
which no running sum can give. They are taken at positions drawn from a seed, the same at every
site, from one forward pass over the windows that have any; memory is bounded by how many are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.passes import Window, each_window, entering
from pruning_core.model.anatomy import Anatomy
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
    rows: dict[str, list[torch.Tensor]] = {site.output: [] for site in anatomy.sites}
    length = windows.shape[1]
    for window in each_window(model, windows, "sampling", tick):
        own = positions[positions // length == window.index] % length
        if len(own):
            with entering(model, rows, partial(_take, rows, own, window)):
                model(input_ids=window.ids, use_cache=False)
    return {site.key: torch.cat(rows[site.output]) for site in anatomy.sites}


def _take(
    rows: Mapping[str, list[torch.Tensor]],
    positions: torch.Tensor,
    window: Window,
    module: str,
    inputs: torch.Tensor,
) -> None:
    tokens = inputs.flatten(0, -2)
    drawn = tokens[positions.to(tokens.device)].float().cpu()
    window.check(f"What enters {module} in", drawn)
    rows[module].append(drawn)
