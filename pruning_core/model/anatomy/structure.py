"""What a model is made of, as far as pruning is concerned. Pure data and arithmetic, no weights.

A site's tensors are tied together: when a unit leaves, it leaves every one of them. How, is said by
`Coupling`: along one axis of a tensor lie `Segment`s, runs of equal items. The fused projection of
Phi-3 with 4 query heads over 2 key/value heads of width 8, for example, is

    Coupling("….qkv_proj.weight", axis=0, slice_size=32, segments=(
        Segment(Part.QUERY_HEAD, 4, 8), Segment(Part.KV_HEAD, 2, 8), Segment(Part.KV_HEAD, 2, 8)))

BLOOM, GPT-NeoX and Falcon store the rows group by group: queries, key and value of the first
key/value head, then of the second. There a group's rows are one item, and it leaves as a whole.

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


class HeadCount(StrEnum):
    """What an attribute of an attention module counts.

    QUERY: query heads. KV: key/value heads. SHARED: query heads that share one key/value head.
    WIDTH: the entries of all query heads together.
    """

    QUERY = "query"
    KV = "kv"
    SHARED = "shared"
    WIDTH = "width"


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
        head_counts: attributes of the sub-layer, with what they count; see `head_attributes`.
        head_biases: keyword arguments that bring something for every query head of the dense site.
        whole_groups: whether query heads leave with their key/value head only.
        removable: whether it can lose every unit.
        stood_in_for: the modules that no-ops stand in for then, all but the last of them only
            passing on what they are given; by default the sub-layer itself.
    """

    key: SiteKey
    module: str
    output: str
    couplings: tuple[Coupling, ...]
    fixed: tuple[tuple[str, int], ...] = ()
    reads_config: bool = False
    head_counts: tuple[tuple[str, HeadCount], ...] = ()
    head_biases: tuple[str, ...] = ()
    whole_groups: bool = False
    removable: bool = True
    stood_in_for: tuple[str, ...] = ()

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
    def replaced(self) -> tuple[str, ...]:
        """The modules that no-ops stand in for once every unit has left."""
        return self.stood_in_for or (self.module,)

    @property
    def reads_units(self) -> Coupling:
        """The coupling of the output projection's matrix."""
        return next(c for c in self.couplings if c.tensor == f"{self.output}.weight")

    @property
    def has_output_bias(self) -> bool:
        """Whether the dense output projection has a bias."""
        return f"{self.output}.bias" in dict(self.fixed)

    @property
    def output_columns(self) -> int:
        """Inputs of the output projection of the dense site."""
        return sum(segment.size for segment in self.reads_units.segments)

    def head_attributes(self, units: int, heads: int) -> dict[str, int]:
        """Return the values of `head_counts` with `units` groups of `heads` query heads each."""
        width = sum(segment.width for segment in self.reads_units.segments)
        values = {
            HeadCount.QUERY: units * heads,
            HeadCount.KV: units,
            HeadCount.SHARED: heads,
            HeadCount.WIDTH: units * heads * width,
        }
        return {name: values[count] for name, count in self.head_counts}

    @property
    def matrices(self) -> tuple[Coupling, ...]:
        """The couplings that take part in matrix products."""
        return tuple(coupling for coupling in self.couplings if coupling.is_matrix)

    def matrix_weights(self, counts: Mapping[Part, int]) -> int:
        """Return the weights in the site's matrices with so many items of each part."""
        return sum(
            coupling.slice_size * sum(counts[s.part] * s.width for s in coupling.segments)
            for coupling in self.matrices
        )

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
        """Every width the site can reach, from dense to none, or to one unit where one must stay.

        An MLP loses channel by channel. Attention loses whole key/value groups and, between those,
        one query head in every kept group at a time: the shapes stay rectangular, so that stock
        attention runs them.
        """
        if self.key.kind is SiteKind.MLP:
            return tuple(self.width(n, 0) for n in range(self.units, self._fewest - 1, -1))
        full = self.heads_per_unit
        # A group costs one key and value and one query and output per head: heads + 1 in all.
        steps = [
            self.width(units, heads)
            for units in range(self.units, 0, -1)
            for heads in range(full, full - 1 if self.whole_groups else 0, -1)
            if units * (heads + 1) > (units - 1) * (full + 1)
        ]
        return (*steps, self.width(0, 0)) if self.removable else tuple(steps)

    def snap(self, sparsity: float) -> Width:
        """Return the reachable width nearest to a sparsity, the wider one of two equals."""
        if self.key.kind is SiteKind.MLP:
            near = round((1 - sparsity) * self.units)
            around = range(min(near + 1, self.units), max(near - 2, self._fewest - 1), -1)
            return min((self.width(n, 0) for n in around), key=lambda w: abs(w.sparsity - sparsity))
        return min(self.ladder, key=lambda width: abs(width.sparsity - sparsity))

    @property
    def _fewest(self) -> int:
        return 0 if self.removable else 1

    def _parameters(self, counts: Mapping[Part, int]) -> int:
        coupled = sum(
            coupling.slice_size * sum(counts[s.part] * s.width for s in coupling.segments)
            for coupling in self.couplings
        )
        return coupled + sum(size for _, size in self.fixed)


@dataclass(frozen=True)
class Linear:
    """One matrix of a layer that weight-level methods can thin, whether its site can shrink or not.

    Attributes:
        tensor: the parameter's name from the model's root.
        key: the site it belongs to.
        module: the projection's name from the model's root; the input of that module is the input
            of the matrix.
        transposed: whether the tensor is stored [in, out] (``Conv1D``) and not [out, in].
        size: how many weights it has.
        channel_axis: the axis of the [out, in] matrix along which the MLP's channels lie: 0 for
            those that make them (twice over where gate and up are one matrix), 1 for the one that
            reads them. None in attention.
        is_output: whether it is the site's output projection.
    """

    tensor: str
    key: SiteKey
    module: str
    size: int
    transposed: bool = False
    channel_axis: int | None = None
    is_output: bool = False


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
        layers_return_tuples: whether a layer returns its hidden states as the first of a tuple.
        linears: every matrix of every layer, those of refused sites too, in layer order, attention
            before MLP. Experts are left out: theirs are stacked in tensors of three axes.
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
    layers_return_tuples: bool = False
    linears: tuple[Linear, ...] = ()

    @cached_property
    def by_key(self) -> dict[SiteKey, Site]:
        """Sites by their key."""
        return {site.key: site for site in self.sites}

    @property
    def prunable_parameters(self) -> int:
        """Parameters of all sites: what a sparsity of 1 everywhere would remove."""
        return sum(site.parameters for site in self.sites)

    @cached_property
    def linear_weights(self) -> int:
        """Weights in the matrices of all layers."""
        return sum(linear.size for linear in self.linears)

    def of_kind(self, kind: SiteKind) -> tuple[Site, ...]:
        """Return the sites of one kind, in layer order."""
        return tuple(site for site in self.sites if site.key.kind is kind)


def most_ends(layers: int) -> int:
    """Return how many layers may stay dense at either end, so that one is left between to prune."""
    return (layers - 1) // 2
