"""Taylor statistics of the whole batch: the mean over the windows first, the absolute value after.

With g the gradient of the mean loss of all windows, g_n that of window n alone, and
``F = mean_n g_n^2`` in place of the Hessian's diagonal, a slice of a matrix is worth

    vector    |sum_k w_k g_k|
    element1  sum_k |w_k g_k|
    element2  sum_k |w_k F_k w_k|
    mix       sum_k |w_k g_k - w_k F_k w_k / 2|

Windows are equally long, so that g is the mean of g_n and one backward pass a window serves all.

Source: LLM-Pruner (arXiv 2305.11627, section 3.2). Since the mean stands inside the absolute value
of a single weight, g and F are kept for every weight, four bytes each, until the last window is
through. That is what the method costs, and what `taylor` does without; only the vector, a sum up to
its very end, keeps no more than slice sums.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.backward import differentiate
from pruning_core.calibration.passes import Window
from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Coupling
from pruning_core.model.memory import demand_scoring, in_gb, of_skeleton, whereabouts
from pruning_core.progress import Tick, silent


class Salience(StrEnum):
    """What a slice is worth, by the formulas above."""

    VECTOR = "vector"
    FIRST = "element1"
    SECOND = "element2"
    MIX = "mix"

    @property
    def gradient(self) -> bool:
        """Whether it needs the batch gradient of every weight."""
        return self in (Salience.FIRST, Salience.MIX)

    @property
    def fisher(self) -> bool:
        """Whether it needs the mean squared gradient of every weight."""
        return self in (Salience.SECOND, Salience.MIX)


SliceScores = Mapping[str, torch.Tensor]
"""By the name of a matrix, fp32 [slices along its coupled axis], on the CPU."""


def gather_batch_taylor(
    model: PreTrainedModel,
    anatomy: Anatomy,
    windows: torch.Tensor,
    kinds: Collection[Salience],
    tick: Tick = silent,
) -> dict[Salience, SliceScores]:
    """Differentiate the loss of every window and return what each slice is worth.

    A slice is a row of ``q_proj`` or ``gate_proj``, a column of ``o_proj`` or ``down_proj``.

    Args:
        model: dense, frozen; it is left as it was.
        windows: int64 [samples, tokens].
        kinds: what to return; what none of them needs is not kept.
        tick: hears one step per sample.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if a loss or a gradient is not finite.
    """
    collector = _Collector(model, anatomy, len(windows), kinds)
    differentiate(model, collector.couplings, windows, collector.take, "scoring", tick)
    return collector.scores()


def demand_batch_taylor(
    model: PreTrainedModel, anatomy: Anatomy, window: int, kinds: Collection[Salience]
) -> None:
    """Refuse before it starts what can't be kept beside a pass over one window.

    Args:
        model: as it will be scored, on its device.
        window: the tokens of one calibration window.
        kinds: as for `gather_batch_taylor`.

    Raises:
        PrunescopeError: with what is needed, what is there, and what would fit.
    """
    demand_scoring(model, window)
    each = 4 * (any(kind.gradient for kind in kinds) + any(kind.fisher for kind in kinds))
    weights = sum(model.get_parameter(c.tensor).numel() for c in _matrices(anatomy))
    device = whereabouts(model)
    check = of_skeleton(model, device, model.dtype, window)
    kept = each * weights
    needed = kept + check.scoring_peak_bytes - check.parameters * check.dtype.itemsize
    if needed <= check.available_bytes:
        return
    raise PrunescopeError(
        f"Scoring by the gradient of all windows together does not fit on {device}: it keeps "
        f"{each} bytes for every prunable weight, {in_gb(kept)} in all, and with windows of "
        f"{window} tokens needs {in_gb(needed)} beside the weights; "
        f"{in_gb(check.available_bytes)} are free. Choose {Salience.VECTOR.value!r}, which keeps "
        "sums only, an estimator that takes one window at a time, or a smaller model."
    )


def _matrices(anatomy: Anatomy) -> list[Coupling]:
    return [coupling for site in anatomy.sites for coupling in site.matrices]


class _Collector:
    """Adds gradients up.

    Attributes:
        couplings: by tensor name, what will be asked for gradients.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        samples: int,
        kinds: Collection[Salience],
    ) -> None:
        self._samples = samples
        self._kinds = kinds
        self.couplings = {c.tensor: c for c in _matrices(anatomy)}
        self._weights = {name: model.get_parameter(name).detach() for name in self.couplings}
        self._signed = {
            name: self._zeros(name, coupling.axis)
            for name, coupling in self.couplings.items()
            if Salience.VECTOR in kinds
        }
        self._gradients = {
            name: self._zeros(name)
            for name in self.couplings
            if any(kind.gradient for kind in kinds)
        }
        self._squares = {
            name: self._zeros(name) for name in self.couplings if any(kind.fisher for kind in kinds)
        }

    def _zeros(self, tensor: str, axis: int | None = None) -> torch.Tensor:
        weight = self._weights[tensor]
        shape = weight.shape if axis is None else (weight.shape[axis],)
        return torch.zeros(shape, device=weight.device, dtype=torch.float32)

    def take(self, window: Window, name: str, gradient: torch.Tensor) -> None:
        gradient = gradient.float()
        # Every entry is in the norm, squared as it will be in F, and no copy is made.
        window.check(f"The gradient of {name} in", torch.linalg.vector_norm(gradient))
        if name in self._gradients:
            self._gradients[name] += gradient
        if name in self._squares:
            self._squares[name].addcmul_(gradient, gradient)
        if name in self._signed:
            # Last and in place: the gradient is ours, and the weight's fp32 copy is saved.
            across = 1 - self.couplings[name].axis
            self._signed[name] += gradient.mul_(self._weights[name]).sum(across)

    @torch.no_grad()
    def scores(self) -> dict[Salience, SliceScores]:
        """Return the scores; matrix by matrix, what was kept is used up."""
        found: dict[Salience, dict[str, torch.Tensor]] = {kind: {} for kind in self._kinds}
        for name in self.couplings:
            for kind, slices in self._worth(name).items():
                found[kind][name] = slices.cpu()
        return dict(found)

    def _worth(self, name: str) -> dict[Salience, torch.Tensor]:
        weight, across = self._weights[name], 1 - self.couplings[name].axis
        worth: dict[Salience, torch.Tensor] = {}
        if name in self._gradients:
            self._gradients[name].div_(self._samples).mul_(weight)
        if name in self._squares:
            self._squares[name].div_(self._samples).mul_(weight).mul_(weight)
        if Salience.VECTOR in self._kinds:
            worth[Salience.VECTOR] = self._signed[name].div(self._samples).abs()
        if Salience.FIRST in self._kinds:
            worth[Salience.FIRST] = self._gradients[name].abs().sum(across)
        if Salience.SECOND in self._kinds:
            worth[Salience.SECOND] = self._squares[name].sum(across)
        if Salience.MIX in self._kinds:
            mixed = self._gradients[name].sub_(self._squares[name], alpha=0.5)
            worth[Salience.MIX] = mixed.abs_().sum(across)
        self._gradients.pop(name, None)
        self._squares.pop(name, None)
        return worth
