"""The workbench: a loaded model that carries one plan at a time and can return to dense.

This is where weights are written, and nowhere else. The dense parameters stay in memory untouched;
applying a plan puts smaller ones, gathered out of them, in their place, and restoring puts the very
same tensors back: bit-identical, and free of cost.

Not thread-safe: whoever shares a workbench puts its users in a queue.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Part, Site, read_anatomy
from pruning_core.model.forward import only_heads
from pruning_core.planning.plan import DENSE, Plan, SitePlan, UnitPlan
from pruning_core.planning.thinning import WeightPlan
from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.surgery.removed import RemovedAttention, RemovedMlp


class Workbench:
    """A model on the bench.

    Attributes:
        model: the model; its weights are those of the plan that is applied.
        anatomy: its layers and sites.
        plan: the applied plan, None when dense.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a dense model.

        Raises:
            PrunescopeError: if its family is unknown, or some of its weights were left on disk.
        """
        self.model = model
        self.anatomy: Anatomy = read_anatomy(model)
        self.plan: Plan | None = None
        self.dense_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self._modules = {
            name: model.get_submodule(name)
            for site in self.anatomy.sites
            for name in (site.module, *site.replaced)
        }
        self._output_biases = {
            site.key: model.get_submodule(site.output).bias for site in self.anatomy.sites
        }
        self._hooks: dict[SiteKey, RemovableHandle] = {}
        self._tensors = _tensors_by_site(self.anatomy)
        self._dense = {
            tensor: model.get_parameter(tensor)
            for tensors in self._tensors.values()
            for tensor in tensors
        }
        self._signatures = dict.fromkeys(self._tensors, DENSE)
        offloaded = [name for name, weight in self._dense.items() if weight.is_meta]
        if offloaded:
            raise PrunescopeError(
                f"{len(offloaded)} weights of this model did not fit and were left on disk; only "
                "weights in memory can be pruned. Use a machine with more memory, or a smaller "
                "dtype."
            )

    def dense(self, tensor: str) -> nn.Parameter:
        """Return a coupled tensor as it was loaded, whatever plan is applied."""
        return self._dense[tensor]

    def apply(self, plan: Plan) -> None:
        """Make the model the one that a plan describes; only sites that differ are touched."""
        for key, present in self._signatures.items():
            wanted = plan.signatures.get(key, DENSE)
            if present != wanted:
                if present != DENSE:
                    self._restore_site(key)
                # Noted first: a failure half-way (memory) must not leave the site looking dense.
                self._signatures[key] = wanted
                if wanted != DENSE:
                    self._apply_site(key, plan)
        self.plan = plan

    def restore(self) -> None:
        """Return to the dense model, bit for bit."""
        for key, present in self._signatures.items():
            if present != DENSE:
                self._restore_site(key)
        self.plan = None

    @contextmanager
    def applied(self, plan: Plan | None) -> Iterator[None]:
        """Apply a plan, None for dense; if the work inside fails or is cancelled, take it back.

        On success the plan stays, so that the next one, which mostly differs in few sites, is quick
        to apply.
        """
        before = self.plan
        try:
            self._become(plan)
            yield
        except BaseException:
            self._become(before)
            raise

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Let the work inside apply what it likes: what is applied now is applied afterwards."""
        before = self.plan
        try:
            yield
        finally:
            self._become(before)

    def _become(self, plan: Plan | None) -> None:
        if plan is None:
            self.restore()
        else:
            self.apply(plan)

    def _apply_site(self, key: SiteKey, plan: Plan) -> None:
        if isinstance(plan, WeightPlan):
            for tensor, thinned in plan.sites[key].weights.items():
                self._put(tensor, thinned)
        elif isinstance(plan, UnitPlan):
            self._cut(plan.sites[key])

    def _cut(self, plan: SitePlan) -> None:
        site = plan.site
        shift = None if plan.bias is None else self._shift(plan, plan.bias)
        if not plan.width.units:
            for name, module in zip(site.replaced, _removed(site, shift), strict=True):
                self._replace(name, module)
            return
        if plan.width.parameters != site.parameters:
            self._narrow(plan)
        for tensor, value in plan.weights.items():
            self._put(tensor, value)
        if shift is not None:
            self._put(f"{site.output}.bias", shift)

    def _narrow(self, plan: SitePlan) -> None:
        """Gather what stays of a site out of its dense tensors."""
        site = plan.site
        for coupling in site.couplings:
            if coupling.tensor in plan.weights:
                continue
            dense = self._dense[coupling.tensor]
            index = coupling.indices(plan.kept).to(dense.device)
            self._put(coupling.tensor, dense.detach().index_select(coupling.axis, index))
        if site.key.kind is SiteKind.ATTENTION:
            self._set_heads(site, plan.width.units, plan.width.heads)
            if site.head_biases:
                self._hooks[site.key] = only_heads(
                    self._modules[site.module],
                    site.head_biases,
                    site.counts[Part.QUERY_HEAD],
                    plan.kept[Part.QUERY_HEAD],
                )

    def _shift(self, plan: SitePlan, added: torch.Tensor) -> torch.Tensor:
        """Return an output projection's bias with what a repair adds to it."""
        site = plan.site
        dense = self._dense[site.reads_units.tensor]
        bias = self._output_biases[site.key]
        shift = added.to(dense.device)
        return (shift if bias is None else shift + bias.float()).to(dense.dtype)

    def _restore_site(self, key: SiteKey) -> None:
        site = self.anatomy.by_key.get(key)
        if site is not None:
            for name in site.replaced:
                self._replace(name, self._modules[name])
            setattr(self.model.get_submodule(site.output), "bias", self._output_biases[key])  # noqa: B010 - nn.Module types attributes as tensors
            if key.kind is SiteKind.ATTENTION:
                self._set_heads(site, site.units, site.heads_per_unit)
        for tensor in self._tensors[key]:
            self._put(tensor, self._dense[tensor])
        if key in self._hooks:
            self._hooks.pop(key).remove()
        self._signatures[key] = DENSE

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, attribute = name.rpartition(".")
        setattr(self.model.get_submodule(parent), attribute, module)

    def _put(self, tensor: str, value: torch.Tensor) -> None:
        name, _, attribute = tensor.rpartition(".")
        module = self.model.get_submodule(name)
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, False)
        setattr(module, attribute, parameter)
        if isinstance(module, nn.Linear) and attribute == "weight":
            module.out_features, module.in_features = parameter.shape
        elif isinstance(module, Conv1D) and attribute == "weight":
            module.nx, module.nf = parameter.shape

    def _set_heads(self, site: Site, units: int, heads: int) -> None:
        """Tell an attention module how many heads it has; stock code reads these when it runs."""
        module = self._modules[site.module]
        for name, value in site.head_attributes(units, heads).items():
            if hasattr(module, name):
                setattr(module, name, value)
        if site.reads_config:
            config = copy.copy(self.model.config)
            config.num_attention_heads = units * heads
            config.num_key_value_heads = units
            setattr(module, "config", config)  # noqa: B010 - nn.Module types attributes as tensors


def _tensors_by_site(anatomy: Anatomy) -> dict[SiteKey, list[str]]:
    """Return every tensor that some plan may change, by the site it belongs to."""
    tensors: dict[SiteKey, dict[str, None]] = {}
    for site in anatomy.sites:
        for coupling in site.couplings:
            tensors.setdefault(site.key, {})[coupling.tensor] = None
    for linear in anatomy.linears:
        tensors.setdefault(linear.key, {})[linear.tensor] = None
    return {key: list(names) for key, names in sorted(tensors.items())}


def _removed(site: Site, shift: torch.Tensor | None) -> list[nn.Module]:
    """Return what stands in for the modules of a site that has lost every unit."""
    attention = site.key.kind is SiteKind.ATTENTION
    last = RemovedAttention(site.key.layer, shift) if attention else RemovedMlp(shift)
    return [*(nn.Identity() for _ in site.replaced[1:]), last]
