"""Repair of a plan whose units leave: what stays makes up for what left, in closed form.

* bias: what the removed units contributed on average becomes a bias of the output projection
  (FLAP, arXiv 2312.11983, section 3.4).
* ridge: the output projection is solved again on the units that stay (`planning.ridge`).

The statistics of a site's inputs come from the dense model, so that one pass over the text serves
every plan, or, for ridge with ``prefix=pruned``, from a walk: every site is looked at while what is
below it is pruned and repaired already, the attention of its own layer included. During the walk
units that leave are zeroed in place of being cut out. Where a norm spans all heads (OLMo 2) that
is an approximation: the norm still sees them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import asdict, replace

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.moments import InputMoments
from pruning_core.calibration.walk import Walk
from pruning_core.model.anatomy import Anatomy, Linear, Site
from pruning_core.planning.plan import DENSE, SitePlan, UnitPlan, marked
from pruning_core.planning.ridge import without_inputs
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey
from pruning_core.repair import RepairKind

Moments = Mapping[SiteKey, InputMoments]
"""Of what enters every output projection of the dense model."""


def walks(plan: UnitPlan) -> bool:
    """Return whether the repair of a plan takes a walk through the layers, and no moments."""
    repair = plan.recipe.repair
    return repair.kind is RepairKind.RIDGE and repair.prefix == "pruned"


def repair_units(
    plan: UnitPlan,
    model: PreTrainedModel,
    *,
    dense: Callable[[str], torch.Tensor],
    moments: Callable[[], Moments],
    windows: Callable[[], torch.Tensor],
    known: MutableMapping[str, SitePlan] | None = None,
    tick: Tick = silent,
) -> UnitPlan:
    """Carry out the repair that a plan's recipe names.

    Args:
        plan: as `make_plan` returns it.
        model: walked through where the repair walks, and dense then; it is left as it was.
        dense: returns a tensor of the dense model by name.
        moments: returns those of the recipe's `repair_calibration`, with products for ridge; called
            unless the repair walks.
        windows: returns the windows of that text, int64 [samples, tokens]; called if it walks.
        known: sites repaired before, by signature, which are not solved again; gains the new ones.
        tick: hears of every layer.

    Raises:
        PrunescopeError: if the moments of a site cannot be inverted, or an input is not finite.
        Cancelled: by `tick`.
    """
    if not plan.recipe.repair:
        return plan
    names = _signatures(plan)
    if not names:
        return plan
    work = _Repairing(plan, model, dense, names, {} if known is None else known, tick)
    done = work.along(windows) if walks(plan) else work.at_once(moments)
    return replace(plan, sites={**plan.sites, **done})


def _signatures(plan: UnitPlan) -> dict[SiteKey, str]:
    """Return for every site that loses units a digest of all that its repair depends on."""
    recipe = plan.recipe
    below = hashlib.sha256(f"{recipe.repair} {_digest(plan)}".encode())
    names: dict[SiteKey, str] = {}
    for key, site in plan.sites.items():
        if site.signature == DENSE:
            continue
        names[key] = marked(site.signature, below.hexdigest())
        if walks(plan):
            below.update(names[key].encode())
    return names


def _digest(plan: UnitPlan) -> str:
    return json.dumps(asdict(plan.recipe.repair_calibration), sort_keys=True)


class _Repairing:
    """One plan being repaired."""

    def __init__(
        self,
        plan: UnitPlan,
        model: PreTrainedModel,
        dense: Callable[[str], torch.Tensor],
        names: Mapping[SiteKey, str],
        known: MutableMapping[str, SitePlan],
        tick: Tick,
    ) -> None:
        self._plan, self._model, self._names = plan, model, names
        self._dense = dense
        self._anatomy: Anatomy = plan.anatomy
        self._known, self._tick = known, tick
        self._repair = plan.recipe.repair

    def at_once(self, gathered: Callable[[], Moments]) -> dict[SiteKey, SitePlan]:
        """Return the repaired sites, every one from the moments of the dense model."""
        missing = [key for key, name in self._names.items() if name not in self._known]
        moments = gathered() if missing else {}
        for count, key in enumerate(missing):
            self._tick("repairing", count, len(missing), str(key))
            self._known[self._names[key]] = self._site(key, moments[key])
        return {key: self._known[name] for key, name in self._names.items()}

    def along(self, windows: Callable[[], torch.Tensor]) -> dict[SiteKey, SitePlan]:
        """Return the repaired sites, each from what enters it behind those before it."""
        missing = {key for key, name in self._names.items() if name not in self._known}
        last = max((key.layer for key in missing), default=-1)
        walk = Walk(self._model, self._anatomy, windows(), self._tick) if missing else None
        for layer in range(last + 1):
            assert walk is not None
            weights: dict[str, torch.Tensor] = {}
            for key in (key for key in self._names if key.layer == layer):
                if key in missing:
                    (output,) = (li for li in self._anatomy.linears if _reads(li, key))
                    seen = walk.look([output], weights, hessian=True, further=False)
                    repaired = self._site(key, seen[output.tensor].moments)
                    self._known[self._names[key]] = repaired
                weights |= self._as_walked(self._known[self._names[key]])
            if layer < last:
                walk.step(weights)
        return {key: self._known[name] for key, name in self._names.items()}

    def _site(self, key: SiteKey, moments: InputMoments) -> SitePlan:
        plan = self._plan.sites[key]
        repaired = replace(plan, signature=self._names[key])
        if self._repair.kind is RepairKind.BIAS:
            return replace(repaired, bias=self._mean_of_removed(plan, moments.mean))
        if not plan.width.units:
            return repaired
        weight, kept = self._output(plan.site), self._kept(plan).to(moments.mean.device)
        assert moments.hessian is not None
        solved = without_inputs(
            weight, moments.hessian, kept, self._repair.damping, plan.site.reads_units.tensor
        )
        stored = solved if plan.site.reads_units.axis == 1 else solved.T
        weights = {plan.site.reads_units.tensor: stored.to(weight.dtype).contiguous()}
        return replace(repaired, weights=weights)

    def _mean_of_removed(self, plan: SitePlan, mean: torch.Tensor) -> torch.Tensor:
        """Return what the units that leave contribute on average, fp32 [hidden]."""
        weight = self._output(plan.site)
        gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        gone[self._kept(plan).to(weight.device)] = False
        return weight[:, gone].float() @ mean.to(weight.device)[gone]

    def _output(self, site: Site) -> torch.Tensor:
        """Return the dense output projection, [out, in]."""
        weight = self._dense(site.reads_units.tensor).detach()
        return weight if site.reads_units.axis == 1 else weight.T

    def _kept(self, plan: SitePlan) -> torch.Tensor:
        """Return the inputs of the output projection that stay."""
        return plan.site.reads_units.indices(plan.kept)

    def _as_walked(self, plan: SitePlan) -> dict[str, torch.Tensor]:
        """Return tensors that let the dense layer compute what the repaired one does."""
        site = plan.site
        coupling = site.reads_units
        dense = self._dense(coupling.tensor).detach()
        if not plan.width.units:
            gone = {coupling.tensor: torch.zeros_like(dense)}
            if site.has_output_bias:
                bias = f"{site.output}.bias"
                gone[bias] = torch.zeros_like(self._model.get_parameter(bias))
            return gone
        kept = self._kept(plan).to(dense.device)
        solved = plan.weights[coupling.tensor]
        return {coupling.tensor: torch.zeros_like(dense).index_copy_(coupling.axis, kept, solved)}


def _reads(linear: Linear, key: SiteKey) -> bool:
    return linear.key == key and linear.is_output
