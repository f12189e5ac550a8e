"""Taylor statistics in one streaming pass: a backward pass per sample, nothing of a gradient kept.

As soon as the gradient of a matrix exists it is reduced to sums over the parts of its site
(`reduction`) and freed.

The statistics serve fine-grained and coarse-grained scores alike; which is made of them is up to
the estimators. Absolute values are taken per sample, by the reader, never before: signed sums of
different samples cancel, and with them the signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.backward import differentiate
from pruning_core.calibration.passes import Window
from pruning_core.calibration.reduction import Reduced, reduce_gradient
from pruning_core.model.anatomy import Anatomy, Coupling, Part, Site
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey


@dataclass(frozen=True)
class PartSums:
    """Sums over all weights of each item of a part, per sample.

    Attributes:
        signed: fp32 [samples, items], ``s = sum e`` with ``e = w * dL/dw``.
        fine: fp32 [samples, items], ``sum |e - e^2/2|``.
    """

    signed: torch.Tensor
    fine: torch.Tensor


@dataclass(frozen=True)
class TileSums:
    """One matrix in tiles, averaged over samples.

    Attributes:
        fine: fp32 [tile rows, tile columns], mean over samples and weights of ``|e - e^2/2|``.
        peak: the largest ``|e - e^2/2|`` of any sample.
        coarse: mean over samples of ``|s - s^2/2|`` of the tile as a whole, per weight.
        shape: the matrix's own shape, [out, in].
    """

    fine: torch.Tensor
    peak: torch.Tensor
    coarse: torch.Tensor
    shape: tuple[int, int]


@dataclass(frozen=True)
class TaylorStatistics:
    """What one pass over the calibration windows leaves behind.

    Attributes:
        parts: sums by site and part.
        tiles: tiles by tensor name.
    """

    parts: Mapping[SiteKey, Mapping[Part, PartSums]]
    tiles: Mapping[str, TileSums]


def gather_taylor(
    model: PreTrainedModel, anatomy: Anatomy, windows: torch.Tensor, tick: Tick = silent
) -> TaylorStatistics:
    """Differentiate the loss of every window and return the reduced statistics.

    Args:
        model: dense, frozen; it is left as it was.
        windows: int64 [samples, tokens].
        tick: hears one step per sample.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if a loss or a gradient is not finite.
    """
    collector = _Collector(model, anatomy, len(windows))
    differentiate(model, collector.places, windows, collector.take, "scoring", tick)
    return collector.statistics()


class _Collector:
    """Reduces gradients and adds them up.

    Attributes:
        places: by tensor name, where the sums of a matrix belong.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, samples: int) -> None:
        self._model = model
        self._samples = samples
        self.places = {c.tensor: (site, c) for site in anatomy.sites for c in site.matrices}
        self._sums = {
            site.key: {part: torch.zeros(2, samples, n) for part, n in site.counts.items()}
            for site in anatomy.sites
        }
        self._tiles: dict[str, torch.Tensor] = {}

    def take(self, window: Window, name: str, gradient: torch.Tensor) -> None:
        site, coupling = self.places[name]
        weight = self._model.get_parameter(name).detach()
        reduced = reduce_gradient(weight, gradient, coupling.axis)
        self._add_parts(window, site, coupling, reduced)
        self._add_tiles(name, reduced)

    def _add_parts(self, window: Window, site: Site, coupling: Coupling, reduced: Reduced) -> None:
        slices = torch.stack((reduced.signed, reduced.fine)).cpu()
        # Every weight is in these sums, and what is not finite stays so in a sum.
        window.check(f"The gradient of {coupling.tensor} in", slices)
        start = 0
        for segment in coupling.segments:
            run = slices[:, start : start + segment.size]
            folded = run.view(2, segment.count, segment.width).sum(-1)
            self._sums[site.key][segment.part][:, window.index] += folded
            start += segment.size

    def _add_tiles(self, name: str, reduced: Reduced) -> None:
        signed = reduced.tile_signed
        coarse = (signed - 0.5 * signed * signed).abs()
        new = torch.stack((reduced.tile_fine, coarse, reduced.tile_peak)).cpu()
        old = self._tiles.get(name)
        if old is None:
            self._tiles[name] = new
        else:
            old[:2] += new[:2]
            torch.maximum(old[2], new[2], out=old[2])

    def statistics(self) -> TaylorStatistics:
        parts = {
            key: {part: PartSums(signed=sums[0], fine=sums[1]) for part, sums in by_part.items()}
            for key, by_part in self._sums.items()
        }
        tiles = {}
        for name, (fine, coarse, peak) in self._tiles.items():
            rows, columns = self._model.get_parameter(name).shape
            weights = rows * columns / fine.numel() * self._samples
            tiles[name] = TileSums(fine / weights, peak, coarse / weights, (rows, columns))
        return TaylorStatistics(parts, tiles)
