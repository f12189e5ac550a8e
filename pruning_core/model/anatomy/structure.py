"""What a model is made of, as far as pruning is concerned. Pure data and arithmetic, no weights.

A site's tensors are tied together: when a unit leaves, it leaves every one of them. How, is said by
`Coupling`: along one axis of a tensor lie `Segment`s, runs of equal items. The fused projection of
Phi-3 with 4 query heads over 2 key/value heads of width 8, for example, is

    Coupling("….qkv_proj.weight", axis=0, slice_size=32, segments=(
        Segment(Part.QUERY_HEAD, 4, 8), Segment(Part.KV_HEAD, 2, 8), Segment(Part.KV_HEAD, 2, 8)))

Scoring folds a matrix along that axis, surgery gathers along it, counting multiplies along it: one
description serves all three, for every family.

Axes: ``H`` query heads, ``G`` key/value heads (groups), ``r = H / G`` query heads that share one
key/value head (query heads ``g*r … g*r+r-1`` belong to group ``g``), ``I`` MLP channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch

from pruning_core.recipe import SiteKey, SiteKind


class Part(StrEnum):
    """The indivisible things a site is made of; units are built from them."""

    QUERY_HEAD = "query_head"
    KV_HEAD = "kv_head"
    CHANNEL = "channel"


@dataclass(frozen=True)
class Segment:
    """A run of `count` items of `width` entries each along one axis of a tensor."""

    part: Part
    count: int
    width: int

    @property
    def size(self) -> int:
        """Entries in all."""
        return self.count * self.width


@dataclass(frozen=True)
class Coupling:
    """How one tensor of a site shrinks.

    Attributes:
        tensor: the parameter's name from the model's root.
        axis: the axis that shrinks.
        slice_size: numbers in one slice across that axis (1 for a bias).
        segments: what lies along the axis, in order.
    """

    tensor: str
    axis: int
    slice_size: int
    segments: tuple[Segment, ...]

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor takes part in a matrix product (biases and norms do not)."""
        return self.slice_size > 1

    def indices(self, kept: Mapping[Part, torch.Tensor]) -> torch.Tensor:
        """Return the positions along the axis that stay, ascending within each segment."""
        pieces, start = [], 0
        for segment in self.segments:
            within = torch.arange(segment.width)
            pieces.append((kept[segment.part][:, None] * segment.width + within).flatten() + start)
            start += segment.size
        return torch.cat(pieces)


@dataclass(frozen=True)
class Width:
    """A width that a site can have.

    Attributes:
        units: units kept: channels, or key/value heads.
        heads: query heads kept in each kept key/value head; 0 for an MLP.
        parameters: parameters left in the site.
        sparsity: the fraction of the site's parameters that has left.
    """

    units: int
    heads: int
    parameters: int
    sparsity: float


@dataclass(frozen=True)
class Site:
    """A prunable place of a layer.

    Attributes:
        key: layer and kind.
        module: the sub-layer's name from the model's root.
        output: the name of the projection whose input columns are the units: ``o_proj``,
            ``down_proj``. Zeroing one column's input removes that unit from the computation.
        couplings: every tensor that shrinks.
        fixed: (name, number of parameters) of the tensors that keep their shape.
        reads_config: whether the sub-layer's code reads head counts off its config, so that a
            narrower one needs a config of its own.
    """

    key: SiteKey
    module: str
    output: str
    couplings: tuple[Coupling, ...]
    fixed: tuple[tuple[str, int], ...] = ()
    reads_config: bool = False

    @cached_property
    def counts(self) -> dict[Part, int]:
        """How many items of each part the dense site has."""
        return {s.part: s.count for coupling in self.couplings for s in coupling.segments}

    @property
    def units(self) -> int:
        """Units of the dense site: channels, or key/value heads."""
        part = Part.KV_HEAD if self.key.kind is SiteKind.ATTENTION else Part.CHANNEL
        return self.counts[part]

    @property
    def heads_per_unit(self) -> int:
        """Query heads that share one key/value head (``r``); 0 for an MLP."""
        if self.key.kind is SiteKind.MLP:
            return 0
        return self.counts[Part.QUERY_HEAD] // self.counts[Part.KV_HEAD]

    @property
    def matrices(self) -> tuple[Coupling, ...]:
        """The couplings that take part in matrix products."""
        return tuple(coupling for coupling in self.couplings if coupling.is_matrix)

    @cached_property
    def parameters(self) -> int:
        """Parameters of the dense site."""
        return self._parameters(self.counts)

    def width(self, units: int, heads: int) -> Width:
        """Return the width with `units` units, and `heads` query heads in each of them.

        A site that has lost every unit is a no-op and holds nothing: its biases and norms leave
        with it.
        """
        if units == 0 or (heads == 0 and self.key.kind is SiteKind.ATTENTION):
            return Width(0, 0, 0, 1.0)
        if self.key.kind is SiteKind.ATTENTION:
            left = self._parameters({Part.KV_HEAD: units, Part.QUERY_HEAD: units * heads})
        else:
            left = self._parameters({Part.CHANNEL: units})
        return Width(units, heads, left, 1 - left / self.parameters)

    @cached_property
    def ladder(self) -> tuple[Width, ...]:
        """Every width the site can reach, from dense to none.

        An MLP loses channel by channel. Attention loses whole key/value groups and, between those,
        one query head in every kept group at a time: the shapes stay rectangular, so that stock
        attention runs them.
        """
        if self.key.kind is SiteKind.MLP:
            return tuple(self.width(units, 0) for units in range(self.units, -1, -1))
        full = self.heads_per_unit
        # A group costs one key and value and one query and output per head: heads + 1 in all.
        steps = [
            self.width(units, heads)
            for units in range(self.units, 0, -1)
            for heads in range(full, 0, -1)
            if units * (heads + 1) > (units - 1) * (full + 1)
        ]
        return (*steps, self.width(0, 0))

    def snap(self, sparsity: float) -> Width:
        """Return the reachable width nearest to a sparsity, the wider one of two equals."""
        if self.key.kind is SiteKind.MLP:
            near = round((1 - sparsity) * self.units)
            around = range(min(near + 1, self.units), max(near - 2, -1), -1)
            return min((self.width(n, 0) for n in around), key=lambda w: abs(w.sparsity - sparsity))
        return min(self.ladder, key=lambda width: abs(width.sparsity - sparsity))

    def _parameters(self, counts: Mapping[Part, int]) -> int:
        coupled = sum(
            coupling.slice_size * sum(counts[s.part] * s.width for s in coupling.segments)
            for coupling in self.couplings
        )
        return coupled + sum(size for _, size in self.fixed)


@dataclass(frozen=True)
class Refusal:
    """A site that cannot be pruned, and why."""

    key: SiteKey
    reason: str


@dataclass(frozen=True)
class Anatomy:
    """A model's layers and sites.

    Attributes:
        family: the name of the family whose description fits.
        layers_path: the dotted name of the list of decoder layers.
        layers: how many there are.
        hidden_size: width of the residual stream.
        head_dim: width of one head.
        parameters: parameters of the whole model, tied ones counted once.
        weights_per_token: the matrix weights that one token meets, the output head included and of
            experts only those it is routed to: each costs one multiplication and one addition.
        element_size: bytes of one parameter of a site.
        sites: every prunable site, in layer order, attention before MLP.
        refusals: the places that cannot be pruned.
    """

    family: str
    layers_path: str
    layers: int
    hidden_size: int
    head_dim: int
    parameters: int
    weights_per_token: int
    element_size: int
    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...] = ()

    @cached_property
    def by_key(self) -> dict[SiteKey, Site]:
        """Sites by their key."""
        return {site.key: site for site in self.sites}

    @property
    def prunable_parameters(self) -> int:
        """Parameters of all sites: what a sparsity of 1 everywhere would remove."""
        return sum(site.parameters for site in self.sites)

    def of_kind(self, kind: SiteKind) -> tuple[Site, ...]:
        """Return the sites of one kind, in layer order."""
        return tuple(site for site in self.sites if site.key.kind is kind)
