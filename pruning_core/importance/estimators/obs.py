"""OBS: what a unit's leaving costs the layer's output once those that stay have made up for it.

With W [out, in] the output projection, C = sum x x^T of its inputs and P = (C + lambda I)^-1 over
the inputs that are still there, lambda = damping * mean diag C, the columns B of one unit cost

    cost_B = tr(W_B (P_BB)^-1 W_B^T)

and once they are gone

    W <- W - W_B (P_BB)^-1 P_B:,    P <- P - P_:B (P_BB)^-1 P_B:

``greedy`` removes the cheapest unit, updates and goes on until none is left; a unit is worth what
it cost when it went, or what the one before it did if that was more. So two units that stand in for
each other are not both cheap, which ``single``, every unit on its own, takes them to be. Query
heads are ranked in the same way, as runs of columns of their own.

Source: the structured optimal brain surgeon of ZipLM (arXiv 2302.04089, section 3.1, equations 2 to
4). Departure: P has a ridge and single columns are taken in batches, exactly updated inside. Best
together with the repair `ridge`, which does what the cost takes for granted.
"""

from __future__ import annotations

import torch

from pruning_core.importance.damped import factor, scaled
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
from pruning_core.importance.standard import output_weight, unit_mean
from pruning_core.model.anatomy import Part, Site
from pruning_core.recipe import SiteKind

BATCH = 32
"""Columns whose rank is settled between two updates of everything."""

STEP = 1e-6
"""By how much, relatively, a unit that left later is worth more at least: so ranks have no ties."""


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return what every unit and query head costs when it leaves.

    Raises:
        PrunescopeError: if the moments of a site cannot be inverted.
    """
    moments = evidence.moments(hessian=True)
    greedy = settings["order"] == "greedy"
    sites = {}
    for count, site in enumerate(evidence.anatomy.sites):
        evidence.tick("ranking units", count, len(evidence.anatomy.sites), str(site.key))
        products = moments[site.key].hessian
        assert products is not None
        sites[site.key] = unit_mean(
            _site(
                site,
                output_weight(evidence, site).double(),
                damped_inverse(products, float(settings["damping"]), site.output),
                greedy=greedy,
            )
        )
    return Scored(sites)


def damped_inverse(products: torch.Tensor, damping: float, name: str) -> torch.Tensor:
    """Return P, fp64 [in, in], of products over their mean diagonal.

    Args:
        name: of the projection, for the error.

    Raises:
        PrunescopeError: if they cannot be inverted.
    """
    return torch.cholesky_inverse(factor(scaled(products), damping, name))


def _site(site: Site, weight: torch.Tensor, inverse: torch.Tensor, *, greedy: bool) -> SiteScores:
    def costs(count: int) -> torch.Tensor:
        width = weight.shape[1] // count
        if not greedy:
            return _single(weight, inverse, width)
        if width == 1:
            return column_costs(weight, inverse)
        return run_costs(weight, inverse, width)

    units = costs(site.units).float().cpu()
    if site.key.kind is SiteKind.MLP:
        return SiteScores(units)
    return SiteScores(units, costs(site.counts[Part.QUERY_HEAD]).float().cpu())


def _single(weight: torch.Tensor, inverse: torch.Tensor, width: int) -> torch.Tensor:
    """Return the cost of every run of columns while all others are there."""
    runs = range(0, weight.shape[1], width)
    return torch.stack([_cost(weight, inverse, slice(at, at + width)) for at in runs])


def _cost(weight: torch.Tensor, inverse: torch.Tensor, run: slice) -> torch.Tensor:
    part = weight[:, run]
    return (torch.linalg.solve(inverse[run, run], part.T) * part.T).sum()


def run_costs(weight: torch.Tensor, inverse: torch.Tensor, width: int) -> torch.Tensor:
    """Return what every run of `width` columns costs when it is its turn.

    Args:
        weight: fp64 [out, in].
        inverse: P, fp64 [in, in].

    Returns:
        fp64 [in / width].
    """
    weight, inverse = weight.clone(), inverse.clone()
    left = list(range(0, weight.shape[1], width))
    order, costs = [], []
    while left:
        found = {at: float(_cost(weight, inverse, slice(at, at + width))) for at in left}
        at = min(left, key=lambda place: found[place])
        order.append(at // width)
        costs.append(found[at])
        _remove(weight, inverse, torch.arange(at, at + width, device=weight.device))
        left.remove(at)
    return _worth(order, costs, weight)


def column_costs(weight: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Return what every column costs when it is its turn; arguments as for `run_costs`.

    The cheapest columns are taken out as a small problem of their own, in which one after the other
    leaves and the rest of it is updated. It ends before a column that costs more than the cheapest
    of those outside, whose costs can only be told after everything is updated.
    """
    weight, inverse = weight.clone(), inverse.clone()
    there = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    order: list[int] = []
    costs: list[float] = []
    while len(order) < len(there):
        now = weight.square().sum(0) / inverse.diagonal().clamp_min(1e-300)
        now = now.masked_fill(~there, float("inf"))
        cheapest = now.topk(min(BATCH + 1, len(there) - len(order)), largest=False)
        few = cheapest.indices[:BATCH]
        bound = float(cheapest.values[BATCH]) if len(cheapest.values) > BATCH else float("inf")
        # One column after the other is many tiny steps, for which an accelerator is no place.
        taken = _within(weight[:, few].cpu(), inverse[few][:, few].cpu(), bound)
        gone = few[[place for place, _ in taken]]
        order += gone.tolist()
        costs += [cost for _, cost in taken]
        _remove(weight, inverse, gone)
        there[gone] = False
    return _worth(order, costs, weight)


def _within(weight: torch.Tensor, inverse: torch.Tensor, bound: float) -> list[tuple[int, float]]:
    """Remove columns one by one while they cost no more than `bound`; at least one.

    Returns:
        their places, and what they cost.
    """
    there = torch.ones(len(inverse), dtype=torch.bool, device=weight.device)
    taken: list[tuple[int, float]] = []
    while len(taken) < len(there):
        now = weight.square().sum(0) / inverse.diagonal().clamp_min(1e-300)
        place = int(now.masked_fill(~there, float("inf")).argmin())
        cost = float(now[place])
        if taken and cost > bound:
            break
        taken.append((place, cost))
        _remove(weight, inverse, torch.tensor([place], device=weight.device))
        there[place] = False
    return taken


def _remove(weight: torch.Tensor, inverse: torch.Tensor, gone: torch.Tensor) -> None:
    """Let columns leave and the others make up for it, in place."""
    taken_up = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
    weight -= weight[:, gone] @ taken_up
    inverse -= inverse[:, gone] @ taken_up


def _worth(order: list[int], costs: list[float], like: torch.Tensor) -> torch.Tensor:
    worth = torch.empty(len(order), dtype=like.dtype, device=like.device)
    last = 0.0
    for place, cost in zip(order, costs, strict=True):
        last = max(cost, last * (1 + STEP))
        worth[place] = last
    return worth


register(
    Estimator(
        name="obs",
        title="OBS (ZipLM)",
        grain=Grain.COARSE,
        needs=Needs.ACTIVATIONS,
        summary="What a unit's leaving costs once those that stay have made up for it.",
        formula="tr(W_B (P_BB)⁻¹ W_Bᵀ), P = (Σ xxᵀ + λI)⁻¹, updated as units leave",
        source="ZipLM, arXiv 2302.04089, section 3.1, equations 2 to 4",
        score=score,
        parameters=(
            Parameter("damping", 0.01, "Added to the diagonal, over its mean.", 1e-6, 10.0),
            Parameter(
                "order",
                "greedy",
                "One unit after the other leaves and the rest is updated (greedy), or every unit "
                "is looked at on its own.",
                choices=("greedy", "single"),
            ),
        ),
    )
)
