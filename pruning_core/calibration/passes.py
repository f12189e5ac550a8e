"""What all passes over the calibration windows share.

Windows go through the model one at a time, each is told before it starts, and what they leave
behind is caught on the way. One number that is not finite would spread over all it is added to, so
a pass stops at the first and says in which window it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.progress import Tick


@dataclass(frozen=True)
class Window:
    """One calibration window on its way through a model.

    Attributes:
        index: its place among the windows, from 0.
        count: how many windows there are.
        ids: int64 [1, tokens], where the model is.
        dtype: the model's.
    """

    index: int
    count: int
    ids: torch.Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, model: PreTrainedModel, windows: torch.Tensor, index: int) -> Window:
        """Take one of many windows, int64 [samples, tokens]."""
        return cls(index, len(windows), windows[index][None].to(model.device), model.dtype)

    def check(self, what: str, values: torch.Tensor) -> None:
        """Refuse values that are not all finite.

        Args:
            what: begins the sentence, up to the window: ``"The loss of"``.

        Raises:
            PrunescopeError: with the window, the number format and the cure.
        """
        if not values.isfinite().all():
            dtype = str(self.dtype).removeprefix("torch.")
            raise PrunescopeError(
                f"{what} calibration window {self.index + 1} of {self.count} is not finite in the "
                f"model's {dtype}, so nothing can be ranked by it. Load the model in bfloat16 or "
                "float32, whose range is larger; if it is in one of them already, its weights are "
                "damaged: load them afresh."
            )


def each_window(
    model: PreTrainedModel, windows: torch.Tensor, stage: str, tick: Tick
) -> Iterator[Window]:
    """Yield one window after another.

    Args:
        windows: int64 [samples, tokens].
        stage: what is being done with them, for `tick`.
        tick: hears one step per window.

    Raises:
        Cancelled: by `tick`.
    """
    for index in range(len(windows)):
        tick(stage, index, len(windows))
        yield Window.of(model, windows, index)
    tick(stage, len(windows), len(windows))


@contextmanager
def entering(
    model: nn.Module, modules: Iterable[str], take: Callable[[str, torch.Tensor], None]
) -> Iterator[None]:
    """Let forward passes hand on what enters some modules, the moment it does.

    Args:
        modules: their names from the model's root.
        take: gets a module's name and its input.
    """
    with ExitStack() as undo:
        for name in modules:
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda _module, inputs, name=name: take(name, inputs[0])
            )
            undo.callback(hook.remove)
        yield
