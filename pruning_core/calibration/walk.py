"""A walk through a model's layers, as weight-level methods need it.

At every layer one looks, which runs the dense layer on the calibration windows and gathers what
enters its matrices, and then steps, which runs it again with whatever weights it shall have from
now on and hands the result to the next layer. The model itself is never written to: layers run with
other weights for the length of one call.

The layers run inside the model's own forward, which brings the masks and positions that belong to
each family; the layers below are skipped and what lies above is never reached.

Source: the layer-wise scheme of SparseGPT (arXiv 2301.00774) and Wanda (arXiv 2306.11695).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from transformers import PreTrainedModel

from pruning_core.calibration.moments import InputMoments
from pruning_core.calibration.passes import Window, entering
from pruning_core.model.anatomy import Anatomy, Linear
from pruning_core.model.forward import decoder_layers, resumed
from pruning_core.progress import Tick, silent


@dataclass(frozen=True)
class Seen:
    """What a look at a layer gathered about one matrix.

    Attributes:
        moments: of its inputs.
        regional: fp32 [out, in] as stored, root mean square over samples of
            ``d ||layer output||_2 / dW``; None if it was not asked for.
    """

    moments: InputMoments
    regional: torch.Tensor | None


class Walk:
    """A walk from the first layer to the last.

    Attributes:
        layer: the layer that is looked at next.
    """

    def __init__(
        self, model: PreTrainedModel, anatomy: Anatomy, windows: torch.Tensor, tick: Tick = silent
    ) -> None:
        """Stand before the first layer.

        Args:
            model: dense, frozen.
            windows: int64 [samples, tokens].
            tick: hears one step per window and layer.
        """
        self._model = model
        self._layers = decoder_layers(model, anatomy)
        self._windows = windows
        self._tick = tick
        self._entering: list[torch.Tensor] = []
        self._leaving: list[torch.Tensor] = []
        self._left_with: dict[str, torch.Tensor] = {}
        self.layer = 0

    def look(
        self,
        linears: Collection[Linear],
        weights: Mapping[str, torch.Tensor] | None = None,
        *,
        hessian: bool = False,
        regional: bool = False,
        further: bool = True,
    ) -> dict[str, Seen]:
        """Run the layer and return what was seen of its matrices, by tensor name.

        Args:
            linears: matrices of this layer.
            weights: what the layer runs with, as for `step`; dense by default.
            hessian: gather all products of inputs, not only their squares.
            regional: gather gradients of the norm of the layer's output.
            further: run the layer to its end, not only until all its matrices were seen: for `step`
                with the same weights, which then has nothing left to do.

        Raises:
            Cancelled: by the tick.
            PrunescopeError: if an input is not finite.
        """
        tensors = {linear.module: linear.tensor for linear in linears}
        moments: dict[str, InputMoments] = {}
        squares = {
            linear.tensor: torch.zeros_like(
                self._model.get_parameter(linear.tensor), dtype=torch.float32
            )
            for linear in (linears if regional else ())
        }
        self._leaving, self._left_with = [], dict(weights or {})
        for window in self._each_window():
            inputs: dict[str, torch.Tensor] = {}
            leaves = {
                name: self._model.get_parameter(name).detach().requires_grad_() for name in squares
            }

            def take(
                module: str, entered: torch.Tensor, into: dict[str, torch.Tensor] = inputs
            ) -> None:
                into[module] = entered
                if not further and len(into) == len(tensors):
                    raise _LeftLayer(entered)

            listening = entering(self._model, tensors, take)
            with listening, torch.set_grad_enabled(regional):
                output = self._run(window, {**self._left_with, **leaves})
            if regional:
                gradients = torch.autograd.grad(output.float().norm(), list(leaves.values()))
                for name, gradient in zip(leaves, gradients, strict=True):
                    squares[name] += gradient.float().square()
            if further:
                self._leaving.append(output.detach())
            _add(moments, inputs, window, hessian)
        regions = {name: (total / len(self._windows)).sqrt() for name, total in squares.items()}
        return {
            tensors[module]: Seen(found, regions.get(tensors[module]))
            for module, found in moments.items()
        }

    def step(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Run the layer with other weights, or leave it dense, and go on to the next.

        Args:
            weights: by tensor name, as stored; what is not named stays as it is.

        Raises:
            Cancelled: by the tick.
        """
        if not self._left(weights):
            self._leaving = []
            for window in self._each_window():
                with torch.no_grad():
                    self._leaving.append(self._run(window, weights))
        self._entering, self._leaving = self._leaving, []
        self.layer += 1

    def _left(self, weights: Mapping[str, torch.Tensor]) -> bool:
        """Whether all windows have left the layer already, with these very weights."""
        before = self._left_with
        return (
            len(self._leaving) == len(self._windows)
            and weights.keys() == before.keys()
            and all(weights[name] is before[name] for name in weights)
        )

    def _run(self, window: Window, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what leaves the layer for one window, [1, tokens, hidden]."""
        with ExitStack() as around:
            if self.layer:
                hidden = self._entering[window.index]
                around.enter_context(resumed(self._layers, self.layer, hidden))
            stop = self._layers[self.layer].register_forward_hook(_stop)
            around.callback(stop.remove)
            try:
                arguments = {"input_ids": window.ids, "use_cache": False}
                functional_call(self._model, dict(weights), kwargs=arguments)
            except _LeftLayer as left:
                return left.hidden
        raise AssertionError("the forward pass never came to the layer")

    def _each_window(self) -> Iterator[Window]:
        windows = len(self._windows)
        for index in range(windows):
            done, total = self.layer * windows + index, len(self._layers) * windows
            self._tick("walking the layers", done, total, f"layer {self.layer}")
            yield Window.of(self._model, self._windows, index)


def _add(
    moments: dict[str, InputMoments],
    inputs: Mapping[str, torch.Tensor],
    window: Window,
    hessian: bool,
) -> None:
    """Add one window, by module; those that read the same tensor share its moments."""
    shared: dict[int, InputMoments] = {}
    for module, entered in inputs.items():
        if id(entered) not in shared:
            window.check(f"What enters {module} in", entered)
            known = moments.get(module) or InputMoments(
                entered.shape[-1], entered.device, hessian=hessian
            )
            known.add(entered.flatten(0, -2))
            shared[id(entered)] = known
        moments[module] = shared[id(entered)]


class _LeftLayer(Exception):
    """Carries what left the layer out of the forward pass, which need not go on."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


def _stop(_module: nn.Module, _args: Any, output: Any) -> None:
    raise _LeftLayer(output[0] if isinstance(output, tuple) else output)
