"""Budgets: what can be asked for, which widths are allowed, and what each of them costs. Pure.

A budget is for the whole model, as a user says it: at most 100 million parameters. `fixed_cost` is
the part of it that no site can save (embeddings, norms, head), `cost_of` what one site spends at
one width. For parameters, bytes and operations they add up to exactly what a plan counts
(`Plan.cost`); milliseconds are measured ones, looked up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, assert_never

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, Part, Site, Width
from pruning_core.planning.plan import dense_cost
from pruning_core.recipe import SiteKind
from pruning_core.repair import NO_REPAIR, Repair, RepairKind


class BudgetKind(StrEnum):
    """What a budget is counted in.

    PARAMETERS, BYTES: of the whole model. OPERATIONS: per token. LATENCY: milliseconds per token.
    PERPLEXITY: a ceiling on the predicted one, under which as much as possible shall leave; what
    leaves is then counted in one of the others.
    """

    PARAMETERS = "parameters"
    BYTES = "bytes"
    OPERATIONS = "operations"
    LATENCY = "latency"
    PERPLEXITY = "perplexity"


class Latency(Protocol):
    """Measured milliseconds per token."""

    @property
    def rest(self) -> float:
        """Of all that is no site."""

    def at(self, site: Site, width: Width) -> float:
        """Return those of a site at a width."""


@dataclass(frozen=True)
class Limits:
    """What a solver may do to the sites it is free to change.

    Attributes:
        minimum: by kind of site the fraction of its channels or query heads that must stay, 0 to 1;
            a kind that is not named may shrink to a single one.
        multiple: the number of MLP channels is a multiple of this, as fast kernels like it (8, 64,
            128); a dense site stays as it is.
        may_remove: whether a site may lose every unit, whatever the minimum.
    """

    minimum: Mapping[SiteKind, float] = field(default_factory=dict)
    multiple: int = 1
    may_remove: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.multiple, bool) or not isinstance(self.multiple, int):
            raise PrunescopeError(f"The multiple is {self.multiple!r}: it must be a whole number.")
        if self.multiple < 1:
            raise PrunescopeError(
                f"The multiple of channels is {self.multiple}: it must be at least 1. Choose 1 for "
                "any number of channels, or 8, 64 or 128 for fast kernels."
            )
        for kind, share in self.minimum.items():
            if not 0 <= share <= 1:  # NaN fails both comparisons
                raise PrunescopeError(
                    f"The minimum width of {kind} is {share}: it is the fraction that must stay "
                    "and lies between 0 and 1."
                )


def site_widths(
    site: Site, limits: Limits, *, locked_at: float | None = None, at_most: int = 200
) -> tuple[Width, ...]:
    """Return the widths that a solver may choose from, from dense downwards.

    An MLP has one for every channel; where those are more than `at_most`, it gets every second,
    third, ... multiple. Numbers of channels with a common divisor are not only fewer: their costs
    add up to fewer different sums, which makes them easy to solve for.

    Args:
        locked_at: the sparsity of a locked site; the width nearest to it is then the only one.
        at_most: how many widths to return, 3 or more.
    """
    if locked_at is not None:
        return (site.snap(locked_at),)
    dense, none = site.width(site.units, site.heads_per_unit), site.width(0, 0)
    removed = (none,) if limits.may_remove and site.removable else ()
    share, room = limits.minimum.get(site.key.kind, 0.0), at_most - 1 - len(removed)
    if site.key.kind is SiteKind.MLP:
        return (dense, *_channels(site, share, limits.multiple, room), *removed)
    return (dense, *_groups(site, share, room), *removed)


def _channels(site: Site, share: float, multiple: int, at_most: int) -> list[Width]:
    """Return the widths of an MLP between dense and none."""
    fewest = max(_at_least(share, site.units), 1)
    step = multiple
    while len(range(-(-fewest // step) * step, site.units, step)) > at_most:
        step += multiple
    counts = range(-(-fewest // step) * step, site.units, step)
    return [site.width(count, 0) for count in reversed(counts)]


def _groups(site: Site, share: float, at_most: int) -> list[Width]:
    """Return the widths of attention between dense and none."""
    fewest = _at_least(share, site.counts[Part.QUERY_HEAD])
    allowed = [w for w in site.ladder[1:] if w.units and w.units * w.heads >= fewest]
    every = -(-len(allowed) // at_most)
    return allowed if every <= 1 else allowed[every - 1 :: every]


def _at_least(share: float, count: int) -> int:
    """Return how many of some are no less than a share of them; 0.3 of 10 are 3, not 4."""
    return math.ceil(share * count - 1e-9)


def cost_of(
    kind: BudgetKind,
    site: Site,
    width: Width,
    anatomy: Anatomy,
    tokens: int,
    latency: Latency | None = None,
    repair: Repair = NO_REPAIR,
) -> float:
    """Return what one site spends of a budget at one width.

    Args:
        kind: what is counted; not perplexity.
        tokens: length of the prefill that operations are counted for; see `dense_cost`.
        latency: where milliseconds are looked up.
        repair: biases that it adds are counted.

    Raises:
        PrunescopeError: for milliseconds that have not been measured, or for perplexity, of which
            no site spends a fixed part.
    """
    match kind:
        case BudgetKind.PARAMETERS:
            return width.parameters + _added(site, width, anatomy, repair)
        case BudgetKind.BYTES:
            parameters = width.parameters + _added(site, width, anatomy, repair)
            return parameters * anatomy.element_size
        case BudgetKind.OPERATIONS:
            positions = width.units * width.heads * anatomy.head_dim * tokens
            return 2 * _matrix_weights(site, width) + 2 * positions
        case BudgetKind.LATENCY:
            return _measured(latency).at(site, width)
        case BudgetKind.PERPLEXITY:
            raise _no_cost()
        case _:
            assert_never(kind)


def fixed_cost(
    kind: BudgetKind,
    anatomy: Anatomy,
    dense_bytes: int,
    tokens: int,
    latency: Latency | None = None,
) -> float:
    """Return what everything that is no site spends of a budget, whatever is pruned.

    Args:
        dense_bytes: bytes of the dense model's parameters; see `cost_of` for the others.

    Raises:
        PrunescopeError: as `cost_of`.
    """
    match kind:
        case BudgetKind.PARAMETERS:
            whole = dense_cost(anatomy, dense_bytes, tokens).parameters
        case BudgetKind.BYTES:
            whole = dense_cost(anatomy, dense_bytes, tokens).bytes
        case BudgetKind.OPERATIONS:
            whole = dense_cost(anatomy, dense_bytes, tokens).operations
        case BudgetKind.LATENCY:
            return _measured(latency).rest
        case BudgetKind.PERPLEXITY:
            raise _no_cost()
        case _:
            assert_never(kind)
    sites = (
        cost_of(kind, site, site.width(site.units, site.heads_per_unit), anatomy, tokens)
        for site in anatomy.sites
    )
    return whole - sum(sites)


def _added(site: Site, width: Width, anatomy: Anatomy, repair: Repair) -> int:
    """Return the parameters of a bias that a repair gives to an output projection without one."""
    dense = width.parameters == site.parameters
    if repair.kind is not RepairKind.BIAS or dense or site.has_output_bias:
        return 0
    return anatomy.hidden_size


def _matrix_weights(site: Site, width: Width) -> int:
    counts = {
        Part.CHANNEL: width.units,
        Part.KV_HEAD: width.units,
        Part.QUERY_HEAD: width.units * width.heads,
    }
    return site.matrix_weights(counts)


def _measured(latency: Latency | None) -> Latency:
    if latency is None:
        raise PrunescopeError(
            "A budget in milliseconds needs the milliseconds of every width, and none have been "
            "measured. Measure the latency of this model on this machine first, or choose "
            "parameters, bytes or operations."
        )
    return latency


def _no_cost() -> PrunescopeError:
    return PrunescopeError(
        "A ceiling on perplexity has no cost of its own: say what shall be as small as possible "
        "under it, parameters, bytes, operations or latency."
    )
