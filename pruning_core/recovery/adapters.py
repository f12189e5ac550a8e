"""Adapters around the matrices of a pruned model: on, trained, merged, and off again.

An adapter stands in its matrix's place and adds to what that computes: ``y = W x + s B A x``, with
``s = alpha / rank`` (LoRA, by peft). `W` is frozen and is never written. Where single weights have
left, the update is masked in the forward pass as well, ``y = W x + s (M * B A) x`` with ``M`` 0
where ``W`` is 0, so that what is merged has the zeros of `W` and is the very model that was
trained. To make ``M * B A`` costs such a matrix about as much as a window of as many tokens as the
rank.

Adapters are fp32, or fp64 in a model of that. The rest of the model stays in evaluation mode: of
all dropout only the adapters' own is on while it learns.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Linear
from pruning_core.planning.plan import Plan, UnitPlan
from pruning_core.planning.thinning import WeightPlan
from pruning_core.recovery.settings import Settings

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

_NAME = "default"


def targets(plan: Plan) -> tuple[Linear, ...]:
    """Return the matrices that a plan leaves to be trained, in layer order.

    Of a plan that removes units those at its sites, but for sites that have lost every unit.
    """
    linears = plan.anatomy.linears
    if not isinstance(plan, UnitPlan):
        return linears
    left = {key for key, site in plan.sites.items() if site.width.units}
    return tuple(linear for linear in linears if linear.key in left)


class Adapters:
    """The adapters that are on a model; made by `adapted`."""

    def __init__(self, wrapped: PeftModel, linears: Sequence[Linear]) -> None:
        self._wrapped = wrapped
        self._layers = {
            linear.tensor: cast(LoraLinear, wrapped.get_base_model().get_submodule(linear.module))
            for linear in linears
        }

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {
            f"{tensor}.{side}": matrices[_NAME].get_parameter("weight")
            for tensor, layer in self._layers.items()
            for side, matrices in (("A", layer.lora_A), ("B", layer.lora_B))
        }

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Turn the adapters' dropout on."""
        for layer in self._layers.values():
            layer.lora_dropout.train()
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.lora_dropout.eval()

    def save(self, folder: Path) -> None:
        """Write the adapters into a folder as peft does, in safetensors.

        Raises:
            OSError: if it cannot be written.
        """
        self._wrapped.save_pretrained(str(folder), safe_serialization=True)
        # Its model card asks for what only a person knows.
        (folder / "README.md").unlink(missing_ok=True)

    def load(self, folder: Path) -> None:
        """Take the numbers that `save` wrote.

        Raises:
            PrunescopeError: if they cannot be read, or are of other matrices.
        """
        path = folder / WEIGHTS
        try:
            values = load_file(path)
            wanted = get_peft_model_state_dict(self._wrapped, adapter_name=_NAME)
            if {name: value.shape for name, value in values.items()} != {
                name: value.shape for name, value in wanted.items()
            }:
                raise _unusable(path, "they are of other matrices than this plan leaves")
            set_peft_model_state_dict(self._wrapped, values, adapter_name=_NAME)
        except (OSError, SafetensorError) as error:
            raise _unusable(path, str(error)) from error

    @torch.no_grad()
    def merged(self) -> dict[str, torch.Tensor]:
        """Return every matrix with its update added, in the model's dtype; zeros of masks stay."""
        return {tensor: _merged(layer) for tensor, layer in self._layers.items()}


@contextmanager
def adapted(model: PreTrainedModel, plan: Plan, settings: Settings) -> Iterator[Adapters]:
    """Put fresh adapters on a model that carries a plan, and take them off again, come what may.

    The first B is 0, so that the model computes what it did; A is drawn from the settings' seed.

    Raises:
        PrunescopeError: if the plan leaves nothing to train.
    """
    linears = targets(plan)
    if not linears:
        raise PrunescopeError(
            "There is nothing to train: this plan leaves no matrix in any layer. Prune less."
        )
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modules = {linear.module: model.get_submodule(linear.module) for linear in linears}
    with ExitStack() as undo:
        undo.callback(_take_off, model, modules, flags)
        wrapped = _put_on(model, plan, linears, settings)
        yield Adapters(wrapped, linears)


def digest_of(folder: Path, settings: Settings) -> str:
    """Return the SHA-256 of adapters that `Adapters.save` wrote, their scale included.

    Raises:
        PrunescopeError: if they cannot be read.
    """
    path = folder / WEIGHTS
    content = hashlib.sha256(f"{settings.alpha}/{settings.rank} ".encode())
    try:
        content.update(path.read_bytes())
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    return content.hexdigest()


class MaskedLinear(LoraLinear):
    """An adapter that adds nothing where its matrix is zero."""

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """Return the masked update, shaped as the matrix is stored."""
        return super().get_delta_weight(adapter) * (self.get_base_layer().weight != 0)

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """Return what the matrix computes, with the update."""
        result = self.base_layer(x, *args, **kwargs)
        delta = self.get_delta_weight(_NAME)
        entering = self.lora_dropout[_NAME].forward(x.to(delta.dtype))
        added = F.linear(entering, delta.T if self.fan_in_fan_out else delta)
        return (result + added).to(result.dtype)


def _put_on(
    model: PreTrainedModel, plan: Plan, linears: Sequence[Linear], settings: Settings
) -> PeftModel:
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=[linear.module for linear in linears],
        fan_in_fan_out=any(linear.transposed for linear in linears),
        task_type="CAUSAL_LM",
    )
    if isinstance(plan, WeightPlan):
        config._register_custom_module({nn.Linear: MaskedLinear, Conv1D: MaskedLinear})
    devices = {model.get_parameter(linear.tensor).device for linear in linears}
    with warnings.catch_warnings(), torch.random.fork_rng(gpus(devices)):
        # peft asks transformers by a name that this one is about to give up.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        torch.manual_seed(settings.seed)
        wrapped = get_peft_model(model, config, adapter_name=_NAME)
    for layer in wrapped.modules():
        if isinstance(layer, LoraLinear):
            layer.lora_dropout.eval()
    return wrapped


def gpus(devices: set[torch.device]) -> list[torch.device]:
    """Return those devices whose random numbers are drawn apart from the CPU's."""
    return [device for device in devices if device.type == "cuda"]


def _take_off(
    model: PreTrainedModel,
    modules: dict[str, nn.Module],
    flags: Sequence[tuple[nn.Parameter, bool]],
) -> None:
    """Put the model's own modules back and undo what peft has noted on it."""
    for name, module in modules.items():
        parent, _, attribute = name.rpartition(".")
        model.get_submodule(parent).add_module(attribute, module)
    if hasattr(model, "peft_config"):
        del model.peft_config
    for parameter, required in flags:
        parameter.requires_grad_(required)


def _merged(layer: LoraLinear) -> torch.Tensor:
    weight = layer.get_base_layer().get_parameter("weight").detach()
    delta = layer.get_delta_weight(_NAME)
    return (weight.to(delta.dtype) + delta).to(weight.dtype)


def _unusable(path: Path, why: str) -> PrunescopeError:
    return PrunescopeError(
        f"The adapters in {path} can't be used: {why}. Take a whole copy, or train again."
    )
