"""LLM-Pruner: the gradient of the whole batch, by row and column of every matrix of a group.

    I_u = sum_c R_m v_m[u, c],   mean over the units = 1

A member m is one of the runs of rows or columns that leave together (q, k, v, o; gate, up, down);
v_m is what each of its slices is worth (`batch_taylor`), folded to the channels c of a unit; R
reduces over the members, channel by channel. A unit of attention is a key/value group: of the query
rows and output columns it has those of all its query heads, added up, before R sees them. Query
heads are ranked by their own two members alone, reduced the same way.

The authors fold query heads wrongly: with H query heads over G groups, group g is given heads g,
g + G, g + 2G, ..., yet it leaves with the consecutive heads that share it, so that it is scored by
weights that are not its own. ``fold=authors`` repeats that, for comparison with their numbers;
where every head has its own key and value, both folds are the same.

Source: LLM-Pruner (arXiv 2305.11627, section 3.2); the reductions, ``element1`` as the default and
the fold as in the authors' code. Assumes that the loss of all text together says what each weight
is for: where windows disagree on the sign of a gradient, it is lost in their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pruning_core.calibration.batch_taylor import Salience, SliceScores
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.registry import (
    Estimator,
    Grain,
    Needs,
    Parameter,
    Scored,
    Settings,
    register,
)
from pruning_core.importance.standard import unit_mean
from pruning_core.model.anatomy import Part, Site
from pruning_core.recipe import SiteKind

REDUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda members: members.sum(0),
    "mean": lambda members: members.mean(0),
    "max": lambda members: members.amax(0),
    "prod": lambda members: members.prod(0),
}
"""How [members, items, channels] become [items, channels]."""


@dataclass(frozen=True)
class Member:
    """One of the runs of slices that leave together.

    Attributes:
        tensor: the matrix it lies in; fused projections hold several members.
        part: what it is made of.
        values: fp64 [items, channels], what each slice is worth. In fp64, since a product of four
            small numbers may be none in fp32.
    """

    tensor: str
    part: Part
    values: torch.Tensor


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return scores of units and query heads, mean 1 over those of each site."""
    kind = Salience(str(settings["taylor"]))
    slices = evidence.batch_taylor([kind])[kind]
    reduction, fold = str(settings["reduction"]), str(settings["fold"])
    sites = {}
    for site in evidence.anatomy.sites:
        sites[site.key] = unit_mean(SiteScores(*raw_scores(site, slices, reduction, fold)))
    return Scored(sites=sites)


def raw_scores(
    site: Site, slices: SliceScores, reduction: str, fold: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a site's scores as the authors have them, before they are normalised.

    Returns:
        fp64 [units] and, in attention, fp64 [query heads].
    """
    reduce = REDUCTIONS[reduction]
    members = site_members(site, slices)
    units = reduce(torch.stack([to_units(site, member, fold) for member in members])).sum(1)
    if site.key.kind is SiteKind.MLP:
        return units, None
    own = [member.values for member in members if member.part is Part.QUERY_HEAD]
    return units, reduce(torch.stack(own)).sum(1)


def site_members(site: Site, slices: SliceScores) -> list[Member]:
    """Return the members of a site's group, in the order of its couplings.

    Where the rows of query, key and value lie group by group in one run, they are told apart.
    """
    members = []
    for coupling in site.matrices:
        runs = slices[coupling.tensor].double().split([s.size for s in coupling.segments])
        for segment, run in zip(coupling.segments, runs, strict=True):
            values = run.view(segment.count, segment.width)
            width = segment.width if segment.part is Part.CHANNEL else _head_width(site)
            if segment.width == width:
                members.append(Member(coupling.tensor, segment.part, values))
                continue
            *queries, key, value = values.split(width, dim=1)
            heads = torch.stack(queries, dim=1).flatten(0, 1)
            members.append(Member(coupling.tensor, Part.QUERY_HEAD, heads))
            members += [Member(coupling.tensor, Part.KV_HEAD, own) for own in (key, value)]
    return members


def _head_width(site: Site) -> int:
    segments = (segment for coupling in site.matrices for segment in coupling.segments)
    return next(segment.width for segment in segments if segment.part is Part.QUERY_HEAD)


def to_units(site: Site, member: Member, fold: str) -> torch.Tensor:
    """Return a member's values per unit, fp64 [units, channels], query heads added up.

    Args:
        fold: ``consecutive``, the query heads that share the unit's key and value, or ``authors``,
            every G-th query head, G the number of units.
    """
    if member.part is not Part.QUERY_HEAD:
        return member.values
    if fold == "authors":
        return member.values.unflatten(0, (site.heads_per_unit, site.units)).sum(0)
    return member.values.unflatten(0, (site.units, site.heads_per_unit)).sum(1)


register(
    Estimator(
        name="llm-pruner",
        title="LLM-Pruner",
        grain=Grain.FINE,
        needs=Needs.GRADIENTS,
        summary="The gradient of all text together, by row and column of every matrix of a group.",
        formula="sum over the group of sum_k |w·g|, g = ∂L/∂w of the whole batch",
        source="LLM-Pruner, arXiv 2305.11627, section 3.2",
        score=score,
        parameters=(
            Parameter(
                "taylor",
                Salience.FIRST.value,
                "What a row or column is worth: the sum as a whole (vector), or weight by weight "
                "to first order (element1), second order (element2) or both (mix).",
                choices=tuple(kind.value for kind in Salience),
            ),
            Parameter(
                "reduction",
                "sum",
                "How the matrices of a group come together.",
                choices=tuple(REDUCTIONS),
            ),
            Parameter(
                "fold",
                "consecutive",
                "Which query heads count for a key/value group: its own, or those that the "
                "authors' code mistakes for them.",
                choices=("consecutive", "authors"),
            ),
        ),
    )
)
