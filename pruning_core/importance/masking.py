"""How far a masked model is from the dense one, with gradients to the masks.

A unit masked to 0 contributes exactly what a removed unit does: nothing. Two things differ all the
same. OLMo 2's query and key norms average over all heads here, and over the remaining ones once
heads are gone. And where the output projection has a bias, a site masked as a whole still adds it,
while a removed one adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.losses import divergence
from pruning_core.calibration.moments import InputMoments
from pruning_core.importance.compensation import Compensation
from pruning_core.model.anatomy import Anatomy
from pruning_core.model.forward import (
    decoder_layers,
    entering_changed,
    masked,
    over_columns,
    recorded,
    resumed,
)
from pruning_core.recipe import SiteKey, SiteKind

DAMPING = 0.01
"""Of the ridge that mends the masked model, over the mean squared input."""

TOGETHER = 1024
"""Tokens that go through the model at once on an accelerator, which a usual window leaves idle."""


def tokens_together(device: torch.device, length: int) -> int:
    """Return how many tokens of windows of `length` go through a model at once."""
    return length if device.type == "cpu" else max(TOGETHER // length, 1) * length


class MaskedDivergence:
    """KL(dense || masked) of the next-token distributions on given windows."""

    def __init__(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        windows: torch.Tensor,
        moments: Mapping[SiteKey, InputMoments] | None = None,
    ) -> None:
        """Look at a dense model, without changing it.

        Args:
            windows: int64 [windows, tokens].
            moments: with products; the masked model is then one that ridge repair has mended.
        """
        self._moments = moments
        self._model, self._anatomy = model, anatomy
        self._layers = decoder_layers(model, anatomy)
        self._windows = windows
        self._dense_last: dict[int, torch.Tensor] = {}

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return len(self._windows)

    def backward(self, masks: Mapping[SiteKey, torch.Tensor], windows: Sequence[int]) -> float:
        """Add the gradients of the mean divergence to the masks' graphs and return the divergence.

        On a CPU windows run one by one, so that memory holds the activations of one of them; else
        as many as make `TOGETHER` tokens.

        Args:
            masks: as for `masked`, with a graph behind them.
            windows: the windows of this step, by index.

        Returns:
            KL(dense || masked), nats per token, mean over the tokens of the windows.
        """
        leaves = {key: mask.detach().requires_grad_(True) for key, mask in masks.items()}
        changes = self._compensations(leaves)
        total = 0.0
        for some in self._together(windows):
            ids = self._windows[some].to(self._model.device)
            dense = self._dense_logits(some, ids)
            with torch.enable_grad(), self._without(leaves, changes):
                logits = self._model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
            nats, gradient = divergence(dense, logits.detach())
            share = len(some) / len(windows)
            logits.backward(gradient.mul_(share))
            total += nats * share
        keys = [key for key in masks if masks[key].requires_grad]
        torch.autograd.backward([masks[key] for key in keys], [leaves[key].grad for key in keys])
        return total

    @torch.no_grad()
    def measure(self, masks: Mapping[SiteKey, torch.Tensor], windows: Sequence[int]) -> float:
        """Return the mean divergence of some windows, forward only.

        Args:
            masks: as for `masked`.
            windows: by index.

        Returns:
            KL(dense || masked), nats per token, mean over the tokens of the windows.
        """
        total = 0.0
        changes = self._compensations(masks)
        for some in self._together(windows):
            ids = self._windows[some].to(self._model.device)
            dense = self._dense_logits(some, ids)
            with self._without(masks, changes):
                logits = self._model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
            total += divergence(dense, logits)[0] * len(some) / len(windows)
        return total

    def _together(self, windows: Sequence[int]) -> Iterator[list[int]]:
        """Deal windows out to passes through the model."""
        length = self._windows.shape[1]
        each = tokens_together(self._model.device, length) // length
        for start in range(0, len(windows), each):
            yield list(windows[start : start + each])

    def _compensations(self, masks: Mapping[SiteKey, torch.Tensor]) -> dict[SiteKey, Compensation]:
        """Return how each masked site makes up for what it loses; nothing without moments."""
        found = {}
        for key, mask in masks.items() if self._moments is not None else ():
            assert self._moments is not None
            products = self._moments[key].hessian
            assert products is not None
            width = self._anatomy.head_dim if key.kind is SiteKind.ATTENTION else 1
            wide = over_columns(mask, key, self._anatomy)
            if bool((wide > 0.5).any()):
                found[key] = Compensation.of(products, wide, DAMPING, width)
        return found

    @contextmanager
    def _without(
        self, masks: Mapping[SiteKey, torch.Tensor], changes: Mapping[SiteKey, Compensation]
    ) -> Iterator[None]:
        """Let the model run masked, and mended where there are compensations."""
        rest = {key: mask for key, mask in masks.items() if key not in changes}
        mended = {
            self._anatomy.by_key[key].output: partial(
                change, over_columns(masks[key], key, self._anatomy)
            )
            for key, change in changes.items()
        }
        with masked(self._model, self._anatomy, rest), entering_changed(self._model, mended):
            yield

    @torch.no_grad()
    def _dense_logits(self, some: Sequence[int], ids: torch.Tensor) -> torch.Tensor:
        """Return the dense logits of some windows, [tokens of all, vocabulary].

        What leaves the last layer is kept from the first time; the head alone runs again, since
        its output is the size of the vocabulary and would fill the memory.
        """
        end = len(self._layers)
        if not all(index in self._dense_last for index in some):
            with recorded(self._layers, [end]) as states:
                logits = self._model(input_ids=ids, use_cache=False).logits
            self._dense_last |= dict(zip(some, states[end].split(1), strict=True))
            return logits.flatten(0, 1)
        last = torch.cat([self._dense_last[index] for index in some])
        with resumed(self._layers, end, last):
            return self._model(input_ids=ids, use_cache=False).logits.flatten(0, 1)
