"""The tensors of a model that carries a plan, each made when a checkpoint asks for it.

Nothing is copied before that: what is written as it stands is the model's own parameter, and what
needs zeros around it is made when it is its turn and let go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import nn
from transformers import PreTrainedModel

from pruning_core.export.stored import Stored
from pruning_core.export.widths import (
    Room,
    in_room,
    placed,
    rooms_of,
    shape_in,
    site_plan,
    spans_units,
)
from pruning_core.model.anatomy import Anatomy, Coupling
from pruning_core.planning.plan import Plan, SitePlan
from pruning_core.recipe import SiteKey
from pruning_core.surgery.workbench import Workbench


class WidthMatters(Exception):
    """Zeros beside the units of a site would change what it computes; the text says why."""


@dataclass(frozen=True)
class Shelf:
    """A model and the plan that it is to carry; `carrying` makes it do so.

    Attributes:
        bench: holds the model.
        plan: what leaves it.
        dense: its parameters as they were loaded, by name, tied ones under their first name only.
    """

    bench: Workbench
    plan: Plan
    dense: Mapping[str, nn.Parameter]

    @classmethod
    def of(cls, bench: Workbench, plan: Plan) -> Shelf:
        """Take a workbench, whose model is dense from here on."""
        bench.restore()
        return cls(bench, plan, dict(bench.model.named_parameters()))

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self.bench.model

    @property
    def anatomy(self) -> Anatomy:
        """Its layers and sites."""
        return self.bench.anatomy

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Let the model carry the plan; tensors can be made inside."""
        with self.bench.applied(self.plan):
            yield

    @cached_property
    def rooms(self) -> dict[SiteKey, Room]:
        """The width of every site once the plan is carried out; 0 units where it has gone."""
        return rooms_of(self.plan, self.anatomy)

    @cached_property
    def hollow(self) -> frozenset[SiteKey]:
        """The sites that have gone without leaving a bias behind."""
        return frozenset(
            key for key, room in self.rooms.items() if not room.units and not self.leaves_bias(key)
        )

    @cached_property
    def gone(self) -> tuple[int, ...]:
        """The layers of which nothing is left."""
        missing = [key.layer for key in self.hollow]
        return tuple(sorted({layer for layer in missing if missing.count(layer) == 2}))

    def leaves_bias(self, key: SiteKey) -> bool:
        """Whether a bias stands in for what has left a site."""
        plan = site_plan(self.plan, key)
        return plan is not None and plan.bias is not None

    @property
    def adds_bias(self) -> frozenset[SiteKey]:
        """The sites whose output projection gains a bias that it had not."""
        plans = {key: site_plan(self.plan, key) for key in self.rooms}
        return frozenset(key for key, plan in plans.items() if plan is not None and plan.adds_bias)

    def renamed(self, source: str, places: Mapping[int, int]) -> str | None:
        """Return a parameter's name once layers have been renumbered, None if its layer has gone.

        Args:
            places: where each layer that stays comes to stand.
        """
        prefix = f"{self.anatomy.layers_path}."
        if not source.startswith(prefix):
            return source
        number, _, rest = source.removeprefix(prefix).partition(".")
        place = places.get(int(number))
        return None if place is None else f"{prefix}{place}.{rest}"

    def stored(self, source: str, name: str, rooms: Mapping[SiteKey, Room]) -> Stored:
        """Return one parameter as it goes into a checkpoint.

        Args:
            source: its name in the dense model, or that of a bias which comes with the plan.
            name: its name in the checkpoint.
            rooms: the width that the checkpoint gives each site.

        Raises:
            WidthMatters: if zeros beside the units would change what they compute.
        """
        if source in self._couplings:
            plan, coupling = self._couplings[source]
            return self._coupled(plan, coupling, rooms[plan.site.key], name)
        if source in self._output_biases:
            return self._output_bias(self._output_biases[source], source, name)
        return self._as_it_is(source, name)

    def own_size(self, source: str) -> int:
        """Return how many numbers of a parameter the plan leaves, 0 where its site has gone."""
        if source not in self._couplings:
            return self.dense[source].numel() if source in self.dense else self.anatomy.hidden_size
        plan, coupling = self._couplings[source]
        own = self.rooms[plan.site.key]
        dense = self.dense[source].shape
        return prod(shape_in(coupling, own, dense)) if own.units else 0

    def zeros(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Stored:
        """Return a tensor of zeros."""
        return Stored(name, shape, dtype, lambda: torch.zeros(shape, dtype=dtype))

    @cached_property
    def _couplings(self) -> dict[str, tuple[SitePlan, Coupling]]:
        found: dict[str, tuple[SitePlan, Coupling]] = {}
        for key in self.rooms:
            plan = site_plan(self.plan, key)
            if plan is not None:
                found |= {c.tensor: (plan, c) for c in plan.site.couplings}
        return found

    @cached_property
    def _output_biases(self) -> dict[str, SitePlan]:
        plans = [site_plan(self.plan, key) for key in self.rooms]
        return {
            f"{plan.site.output}.bias": plan
            for plan in plans
            if plan is not None and (plan.adds_bias or f"{plan.site.output}.bias" in self.dense)
        }

    def _coupled(self, plan: SitePlan, coupling: Coupling, room: Room, name: str) -> Stored:
        dense = self.dense[coupling.tensor]
        shape = shape_in(coupling, room, dense.shape)
        own = self.rooms[plan.site.key]
        if not own.units:
            return self.zeros(name, shape, dense.dtype)
        if own != room and spans_units(coupling):
            raise WidthMatters(
                f"site {plan.site.key} is narrower than others of its kind, and a norm in it "
                "averages over all its heads, which zeros beside them would change"
            )
        positions = in_room(coupling, room).indices(placed(plan, room))

        def make() -> torch.Tensor:
            kept = self.model.get_parameter(coupling.tensor).detach()
            if tuple(kept.shape) == shape:
                return kept
            wide = kept.new_zeros(shape)
            return wide.index_copy_(coupling.axis, positions.to(kept.device), kept)

        return Stored(name, shape, dense.dtype, make)

    def _output_bias(self, plan: SitePlan, source: str, name: str) -> Stored:
        weight = self.dense[plan.site.reads_units.tensor]
        shape = (self.anatomy.hidden_size,)
        if plan.width.units:
            return Stored(name, shape, weight.dtype, lambda: self.model.get_parameter(source))
        if plan.bias is None:
            return self.zeros(name, shape, weight.dtype)
        # Its module has gone; what stands in for it has the bias.
        return Stored(
            name,
            shape,
            weight.dtype,
            lambda: self.model.get_submodule(plan.site.replaced[-1]).get_buffer("shift"),
        )

    def _as_it_is(self, source: str, name: str) -> Stored:
        dense = self.dense[source]

        def make() -> torch.Tensor:
            try:
                return self.model.get_parameter(source)
            except AttributeError:  # of a module that has gone
                return dense

        return Stored(name, tuple(dense.shape), dense.dtype, make)
