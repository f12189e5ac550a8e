"""Moments of a matrix's inputs, added up sequence by sequence in fp32.

Source: the statistics of Wanda (arXiv 2306.11695, section 3) and SparseGPT (arXiv 2301.00774,
section 3). Both are means over sequences of sums over tokens, so that a calibration set of any size
costs no more memory than one sequence.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.passes import each_window, entering
from pruning_core.model.anatomy import Anatomy
from pruning_core.model.memory import demand_moments
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey


class InputMoments:
    """The moments of what enters one matrix."""

    def __init__(self, columns: int, device: torch.device, *, hessian: bool) -> None:
        """Begin with nothing seen.

        Args:
            columns: inputs of the matrix.
            hessian: keep all products of inputs, [in, in], not only the squares.
        """
        self._sequences = self._tokens = 0
        self._sum = torch.zeros(columns, device=device)
        self._squares = torch.zeros(columns, device=device)
        self._products = torch.zeros(columns, columns, device=device) if hessian else None

    def add(self, inputs: torch.Tensor) -> None:
        """Add one sequence, [tokens, in]."""
        values = inputs.detach().float()
        self._sequences += 1
        self._tokens += len(values)
        self._sum += values.sum(0)
        self._squares += values.square().sum(0)
        if self._products is not None:
            self._products.addmm_(values.T, values)

    @property
    def mean(self) -> torch.Tensor:
        """The mean over all tokens, fp32 [in]."""
        return self._sum / self._tokens

    @property
    def norms(self) -> torch.Tensor:
        """``1/N sum_sequences sum_tokens x_j^2``, fp32 [in]."""
        return self._squares / self._sequences

    @property
    def hessian(self) -> torch.Tensor | None:
        """``2/N sum_sequences X X^T``, fp32 [in, in]; None if it was not asked for."""
        return None if self._products is None else self._products * (2 / self._sequences)


@torch.no_grad()
def gather_moments(
    model: PreTrainedModel,
    anatomy: Anatomy,
    windows: torch.Tensor,
    tick: Tick = silent,
    *,
    hessian: bool,
) -> dict[SiteKey, InputMoments]:
    """Run every window through a model and return the moments of its output projections' inputs.

    Args:
        model: dense; it is left as it was.
        windows: int64 [samples, tokens].
        tick: hears one step per sample.
        hessian: as for `InputMoments`.

    Raises:
        Cancelled: by `tick`.
        PrunescopeError: if an input is not finite, or there is no memory for the products.
    """
    keys = {site.output: site.key for site in anatomy.sites}
    widths = {site.output: site.output_columns for site in anatomy.sites}
    if hessian:
        demand_moments(model, sum(width**2 for width in widths.values()))
    found: dict[SiteKey, InputMoments] = {}

    def take(module: str, inputs: torch.Tensor) -> None:
        window.check(f"What enters {module} in", inputs)
        key = keys[module]
        if key not in found:
            found[key] = InputMoments(widths[module], inputs.device, hessian=hessian)
        found[key].add(inputs.flatten(0, -2))

    for window in each_window(model, windows, "listening for the repair", tick):
        with entering(model, keys, take):
            model(input_ids=window.ids, use_cache=False)
    return found
