"""Where the units that stay lie in tensors of a chosen width: as they are, or padded with zeros.

A pruned site has its own width. A checkpoint may need it wider: all layers alike, or a group with
as many query heads as those of other layers. What is added is zero in every tensor, the columns of
the output projection included, and so contributes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pruning_core.model.anatomy import Anatomy, Coupling, Part, Site
from pruning_core.planning.plan import Plan, SitePlan, UnitPlan
from pruning_core.recipe import SiteKey, SiteKind


@dataclass(frozen=True)
class Room:
    """The width that a checkpoint gives a site.

    Attributes:
        units: channels, or key/value heads.
        heads: query heads in each key/value head; 0 for an MLP.
    """

    units: int
    heads: int = 0

    @property
    def counts(self) -> dict[Part, int]:
        """Items of each part."""
        if not self.heads:
            return {Part.CHANNEL: self.units}
        return {Part.KV_HEAD: self.units, Part.QUERY_HEAD: self.units * self.heads}


def dense_room(site: Site) -> Room:
    """Return the width of a site that has lost nothing."""
    return Room(site.units, site.heads_per_unit)


def rooms_of(plan: Plan, anatomy: Anatomy) -> dict[SiteKey, Room]:
    """Return the width that a plan leaves each site; 0 units where it has gone."""
    if isinstance(plan, UnitPlan):
        return {key: Room(p.width.units, p.width.heads) for key, p in plan.sites.items()}
    return {site.key: dense_room(site) for site in anatomy.sites}


def site_plan(plan: Plan, key: SiteKey) -> SitePlan | None:
    """Return what a plan does to the units of a site; None where no unit may leave."""
    return plan.sites.get(key) if isinstance(plan, UnitPlan) else None


def in_room(coupling: Coupling, room: Room) -> Coupling:
    """Return how a coupled tensor is laid out in another width."""
    counts = room.counts
    return replace(
        coupling, segments=tuple(replace(s, count=counts[s.part]) for s in coupling.segments)
    )


def shape_in(coupling: Coupling, room: Room, dense: torch.Size) -> tuple[int, ...]:
    """Return the shape of a coupled tensor in a room."""
    size = sum(segment.size for segment in in_room(coupling, room).segments)
    return (*dense[: coupling.axis], size, *dense[coupling.axis + 1 :])


def spans_units(coupling: Coupling) -> bool:
    """Whether it is the weight of a norm over all heads: zeros beside them change their average."""
    return not coupling.is_matrix and not coupling.tensor.endswith(".bias")


def placed(plan: SitePlan, room: Room) -> dict[Part, torch.Tensor]:
    """Return where in a room the items lie that stay, by part: int64, ascending.

    A room of the dense width keeps every unit where it was, so that what stock code makes for each
    head of the dense model, such as the slopes of ALiBi, meets the head that it was made for.
    """
    if room == dense_room(plan.site):
        return dict(plan.kept)
    width = plan.width
    if plan.site.key.kind is SiteKind.MLP:
        return {Part.CHANNEL: torch.arange(width.units)}
    groups = torch.arange(width.units)
    heads = groups[:, None] * room.heads + torch.arange(width.heads)
    return {Part.KV_HEAD: groups, Part.QUERY_HEAD: heads.flatten()}
