"""Taylor statistics in one streaming pass: a backward pass per sample, nothing of a gradient kept.

For every calibration window n the mean language-model loss L_n is differentiated. As soon as the
gradient of a matrix exists it is reduced to sums over the parts of its site (`reduction`) and
freed, so that the peak of memory stays near weights + activations + one gradient; keeping all
gradients is why LLM-Pruner needs about 80 GB for a model of seven billion weights.

The statistics serve fine-grained and coarse-grained scores alike; which is made of them is up to
the estimators. Absolute values are taken per sample, by the reader, never before: signed sums of
different samples cancel, and with them the signal.

One number that is not finite would spread over all the sums it enters and rank units by nothing, so
the pass stops at the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.losses import next_token_loss
from pruning_core.calibration.reduction import Reduced, reduce_gradient
from pruning_core.errors import PrunescopeError
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
    collector = _Collector(anatomy, len(windows), model.dtype)
    with collector.listening(model):
        for sample, window in enumerate(windows):
            tick("scoring", sample, len(windows))
            collector.begin(sample)
            ids = window[None].to(model.device)
            with torch.enable_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0]
            loss, gradient = next_token_loss(logits.detach(), window)
            collector.check("loss", torch.tensor(loss))
            logits.backward(gradient)
            del logits, gradient
    tick("scoring", len(windows), len(windows))
    return collector.statistics()


class _Collector:
    """Catches gradients and adds them up."""

    def __init__(self, anatomy: Anatomy, samples: int, dtype: torch.dtype) -> None:
        self._sites = anatomy.sites
        self._samples = samples
        self._dtype = str(dtype).removeprefix("torch.")
        self._sample = 0
        self._sums = {
            site.key: {part: torch.zeros(2, samples, n) for part, n in site.counts.items()}
            for site in anatomy.sites
        }
        self._tiles: dict[str, torch.Tensor] = {}
        self._shapes: dict[str, tuple[int, int]] = {}

    @contextmanager
    def listening(self, model: PreTrainedModel) -> Iterator[None]:
        """Ask for gradients of the coupled matrices only, and take each as it comes."""
        with ExitStack() as undo:
            for site in self._sites:
                for coupling in site.matrices:
                    parameter = model.get_parameter(coupling.tensor)
                    undo.callback(parameter.requires_grad_, parameter.requires_grad)
                    parameter.requires_grad_(True)
                    hook = parameter.register_post_accumulate_grad_hook(
                        partial(self._take, site, coupling)
                    )
                    undo.callback(hook.remove)
                    undo.callback(setattr, parameter, "grad", None)
            yield

    def begin(self, sample: int) -> None:
        self._sample = sample

    def check(self, what: str, values: torch.Tensor) -> None:
        """Refuse values that are not all finite."""
        if not values.isfinite().all():
            raise PrunescopeError(
                f"The {what} of calibration window {self._sample + 1} of {self._samples} is not "
                f"finite in the model's {self._dtype}, so nothing can be ranked by it. Load the "
                "model in bfloat16 or float32, whose range is larger; if it is in one of them "
                "already, its weights are damaged: load them afresh."
            )

    def _take(self, site: Site, coupling: Coupling, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        reduced = reduce_gradient(parameter.detach(), parameter.grad, coupling.axis)
        parameter.grad = None
        self._add_parts(site, coupling, reduced)
        self._add_tiles(coupling.tensor, reduced, tuple(parameter.shape))

    def _add_parts(self, site: Site, coupling: Coupling, reduced: Reduced) -> None:
        slices = torch.stack((reduced.signed, reduced.fine)).cpu()
        # Every weight is in these sums, and what is not finite stays so in a sum.
        self.check(f"gradient of {coupling.tensor}", slices)
        start = 0
        for segment in coupling.segments:
            run = slices[:, start : start + segment.size]
            folded = run.view(2, segment.count, segment.width).sum(-1)
            self._sums[site.key][segment.part][:, self._sample] += folded
            start += segment.size

    def _add_tiles(self, name: str, reduced: Reduced, shape: tuple[int, ...]) -> None:
        signed = reduced.tile_signed
        coarse = (signed - 0.5 * signed * signed).abs()
        new = torch.stack((reduced.tile_fine, coarse, reduced.tile_peak)).cpu()
        old = self._tiles.get(name)
        if old is None:
            self._tiles[name] = new
            self._shapes[name] = (shape[0], shape[1])
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
            rows, columns = self._shapes[name]
            weights = rows * columns / fine.numel() * self._samples
            tiles[name] = TileSums(fine / weights, peak, coarse / weights, (rows, columns))
        return TaylorStatistics(parts, tiles)
