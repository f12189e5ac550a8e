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
from transformers import PreTrainedModel

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Site, read_anatomy
from pruning_core.planning.plan import DENSE, Plan, SitePlan
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
        self._modules = {site.key: model.get_submodule(site.module) for site in self.anatomy.sites}
        self._dense = {
            coupling.tensor: model.get_parameter(coupling.tensor)
            for site in self.anatomy.sites
            for coupling in site.couplings
        }
        self._signatures = {site.key: DENSE for site in self.anatomy.sites}
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
        for key, site_plan in plan.sites.items():
            if self._signatures[key] != site_plan.signature:
                self._apply_site(site_plan)
        self.plan = plan

    def restore(self) -> None:
        """Return to the dense model, bit for bit."""
        for site in self.anatomy.sites:
            if self._signatures[site.key] != DENSE:
                self._restore_site(site)
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

    def _become(self, plan: Plan | None) -> None:
        if plan is None:
            self.restore()
        else:
            self.apply(plan)

    def _apply_site(self, plan: SitePlan) -> None:
        site = plan.site
        self._restore_site(site)
        if plan.signature == DENSE:
            return
        # Noted first: a failure half-way (memory) must not leave the site looking dense.
        self._signatures[site.key] = plan.signature
        if not plan.width.units:
            self._replace(site, _removed(site.key))
            return
        for coupling in site.couplings:
            dense = self._dense[coupling.tensor]
            index = coupling.indices(plan.kept).to(dense.device)
            self._put(coupling.tensor, dense.detach().index_select(coupling.axis, index))
        if site.key.kind is SiteKind.ATTENTION:
            self._set_heads(site, plan.width.units, plan.width.heads)

    def _restore_site(self, site: Site) -> None:
        self._replace(site, self._modules[site.key])
        for coupling in site.couplings:
            self._put(coupling.tensor, self._dense[coupling.tensor])
        if site.key.kind is SiteKind.ATTENTION:
            self._set_heads(site, site.units, site.heads_per_unit)
        self._signatures[site.key] = DENSE

    def _replace(self, site: Site, module: nn.Module) -> None:
        parent, _, name = site.module.rpartition(".")
        setattr(self.model.get_submodule(parent), name, module)

    def _put(self, tensor: str, value: torch.Tensor) -> None:
        name, _, attribute = tensor.rpartition(".")
        module = self.model.get_submodule(name)
        parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, False)
        setattr(module, attribute, parameter)
        if isinstance(module, nn.Linear) and attribute == "weight":
            module.out_features, module.in_features = parameter.shape

    def _set_heads(self, site: Site, units: int, heads: int) -> None:
        """Tell an attention module how many heads it has; stock code reads these when it runs."""
        module = self._modules[site.key]
        values = {
            "num_heads": units * heads,
            "num_attention_heads": units * heads,
            "num_key_value_heads": units,
            "num_key_value_groups": heads,
        }
        for name, value in values.items():
            if hasattr(module, name):
                setattr(module, name, value)
        if site.reads_config:
            config = copy.copy(self.model.config)
            config.num_attention_heads = units * heads
            config.num_key_value_heads = units
            setattr(module, "config", config)  # noqa: B010 - nn.Module types attributes as tensors


def _removed(key: SiteKey) -> nn.Module:
    return RemovedAttention(key.layer) if key.kind is SiteKind.ATTENTION else RemovedMlp()
