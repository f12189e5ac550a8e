"""Mutual information: of two neurons that say the same, one can go. MLP channels only.

    repeat: take the pair with the largest nMI; of the two the one with more nMI to the rest leaves
    score = place in the order of leaving, 1 for the first, mean 1 over the units of a site

with nMI as in `pruning_core.importance.renyi`, of the channels' activations at some token positions
of the calibration text. Pairs are looked at inside clusters of correlated channels only. Channels
that never change leave first; of equals the one with the smaller column of the output projection.
Where several seeds are asked for, each draws clusters of its own, and the order is taken that harms
the model least at one sparsity, by KL(dense || masked).

Source: Huang, Song, Pao, "Large Language Model Pruning" (arXiv 2406.00030), a reconstruction: its
abstract and summaries name the parts but give no formulas. There pairs are drawn at random, and one
of the two leaves if their information exceeds a threshold (`pairs` "random"; the threshold is a
quantile here, since nMI has no scale common to all layers). Assumes that what is redundant is
replaceable without training; blind to what the output projection makes of a channel.

The method has no word on attention. There a plain baseline stands in, so that every site can be
ranked: the mean absolute activation of a head at the input of the output projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil, inf

import torch
from torch.nn import functional as F

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
from pruning_core.importance.renyi import kernel_factors, normalised_information
from pruning_core.importance.standard import folded, output_weight, unit_mean
from pruning_core.recipe import SiteKey, SiteKind

DEAD = 1e-6
"""The standard deviation, as a share of the size of the activations, under which a channel is taken
to never change."""

ROUNDING = 1e-5
"""The difference of two mean nMI that may be rounding: the two are equals."""

RANDOM_FIRST = 2.0
"""More than any nMI: pairs drawn at random come before those taken by their nMI."""


Order = dict[SiteKey, torch.Tensor]
"""By MLP site int64 [channels]: which leaves first, which next."""

Clusters = list[tuple[torch.Tensor, torch.Tensor]]
"""The neurons of every cluster, int64 [members], and their nMI, fp32 [members, members]."""


def score(evidence: Evidence, settings: Settings) -> Scored:
    """Return the places of MLP channels in the order of leaving, and loudness for attention."""
    samples = evidence.samples(int(settings["tokens"]))
    orders = _orders(evidence, samples, settings)
    best = orders[0] if len(orders) == 1 else _least_harmful(evidence, orders, settings)
    sites = {}
    for site in evidence.anatomy.sites:
        if site.key.kind is SiteKind.ATTENTION:
            sites[site.key] = unit_mean(folded(site, samples[site.key].abs().mean(0)))
        else:
            places = torch.empty(site.units)
            places[best[site.key]] = torch.arange(1, site.units + 1, dtype=torch.float32)
            sites[site.key] = unit_mean(SiteScores(places))
    return Scored(sites)


def _orders(
    evidence: Evidence, samples: Mapping[SiteKey, torch.Tensor], settings: Settings
) -> list[Order]:
    """Return one order for every seed."""
    sites = evidence.anatomy.of_kind(SiteKind.MLP)
    seeds, size = int(settings["seeds"]), int(settings["cluster"])
    draws = [torch.Generator().manual_seed(evidence.seed + number) for number in range(seeds)]
    orders: list[Order] = [{} for _ in draws]
    done, total = 0, seeds * sum(ceil(site.units / size) for site in sites)
    for site in sites:
        neurons = samples[site.key].T
        norms = output_weight(evidence, site).float().norm(dim=0).cpu()
        moving = _moving(neurons)
        (dead,) = torch.where(~moving)
        (live,) = torch.where(moving)
        factors = kernel_factors(neurons[live], float(settings["s0"]))
        for order, draw in zip(orders, draws, strict=True):
            clusters: Clusters = []
            for members in correlated(neurons[live], size, draw):
                evidence.tick("comparing neurons", done, total, f"layer {site.key.layer}")
                table = normalised_information(factors[members], float(settings["alpha"]))
                clusters.append((members, table))
                done += 1
            quantile = float(settings["quantile"]) if settings["pairs"] == "random" else None
            leaving = removal_order(clusters, norms[live], draw, quantile)
            first = dead[norms[dead].argsort(stable=True)]
            order[site.key] = torch.cat((first, live[leaving]))
    evidence.tick("comparing neurons", total, total)
    return orders


def _moving(neurons: torch.Tensor) -> torch.Tensor:
    """Return which neurons change at all, bool [neurons], given their activations [neurons, n]."""
    size = neurons.square().mean(1).sqrt()
    return neurons.std(1, correction=0) > DEAD * size.clamp(min=float(size.square().mean().sqrt()))


def correlated(neurons: torch.Tensor, size: int, draw: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield clusters of neurons whose activations are correlated, whatever the sign.

    A neuron is drawn, and those nearest to it by |correlation| of all that have no cluster yet join
    it. All are of equal size but for one neuron.

    Args:
        neurons: fp32 [neurons, n], none of them constant.
        size: the most neurons in a cluster.

    Yields:
        int64 [members], every neuron in one cluster.
    """
    unit = F.normalize(neurons - neurons.mean(1, keepdim=True), dim=1)
    free = torch.arange(len(neurons))
    for clusters in range(ceil(len(neurons) / size), 0, -1):
        centre = free[torch.randint(len(free), (), generator=draw)]
        near = (unit[free] @ unit[centre]).abs().argsort(descending=True, stable=True)
        members = ceil(len(free) / clusters)
        yield free[near[:members]]
        free = free[near[members:]]


def removal_order(
    clusters: Clusters,
    norms: torch.Tensor,
    draw: torch.Generator | None = None,
    quantile: float | None = None,
) -> torch.Tensor:
    """Return the order in which the neurons of one site leave.

    Args:
        clusters: every neuron in one.
        norms: fp32 [neurons], of the columns that read them; of equals the smaller leaves.
        draw, quantile: where given, the pairs whose nMI lies above this quantile of the site's come
            first and in random order.

    Returns:
        int64 [neurons], the first to leave first; last, ordered by norm, the one that every cluster
        has left.
    """
    threshold = inf if quantile is None else _quantile([t for _, t in clusters], quantile)
    gone: list[tuple[float, int]] = []
    last: list[tuple[float, int]] = []
    for members, table in clusters:
        urgency = table
        if quantile is not None:
            drawn = torch.rand(table.shape, generator=draw).triu(1)
            urgency = torch.where(table > threshold, RANDOM_FIRST + drawn + drawn.T, table)
        leaving, stays = _leave(table, urgency, norms[members].tolist())
        gone += [(key, int(members[neuron])) for key, neuron in leaving]
        last.append((float(norms[members[stays]]), int(members[stays])))
    # Clusters do not touch each other: the most urgent pair of all is the most urgent of its own.
    gone.sort(key=lambda entry: -entry[0])
    last.sort()
    return torch.tensor([neuron for _, neuron in (*gone, *last)], dtype=torch.int64)


def _quantile(tables: list[torch.Tensor], quantile: float) -> float:
    """Return a quantile of the nMI of all pairs, infinity where there are no pairs."""
    pairs = [table[torch.ones_like(table).triu(1) > 0] for table in tables]
    values = torch.cat(pairs) if pairs else torch.empty(0)
    return float(values.quantile(quantile)) if len(values) else inf


def _leave(
    table: torch.Tensor, urgency: torch.Tensor, norms: list[float]
) -> tuple[list[tuple[float, int]], int]:
    """Return which neurons of a cluster leave, with the urgency of their pair, and which stays."""
    left, members = set(range(len(table))), len(table)
    shared = table.clone().fill_diagonal_(0.0)
    urgency = urgency.clone().fill_diagonal_(-inf)
    leaving = []
    while len(left) > 1:
        one, other = divmod(int(urgency.argmax()), members)
        # Each has the other among the rest, with the same nMI: that does not tell them apart.
        ahead = float((shared[one] - shared[other]).sum()) / (len(left) - 1)
        if abs(ahead) <= ROUNDING:
            ahead = norms[other] - norms[one]
        drop = other if ahead < 0 else one
        leaving.append((float(urgency[one, other]), drop))
        left.remove(drop)
        shared[:, drop] = 0.0
        urgency[drop] = urgency[:, drop] = -inf
    return leaving, left.pop()


def _least_harmful(evidence: Evidence, orders: list[Order], settings: Settings) -> Order:
    """Return the order whose first channels are missed least, at the sparsity of the settings."""
    divergence = evidence.divergence(int(settings["windows"]), gradients=False)
    harms = []
    for number, order in enumerate(orders):
        evidence.tick("comparing seeds", number, len(orders))
        masks = {}
        for key, leaving in order.items():
            masks[key] = torch.ones(len(leaving))
            masks[key][leaving[: round(len(leaving) * float(settings["sparsity"]))]] = 0.0
        harms.append(divergence.measure(masks, range(divergence.windows)))
    evidence.tick("comparing seeds", len(orders), len(orders))
    return orders[harms.index(min(harms))]


register(
    Estimator(
        name="mutual-information",
        title="Mutual information (reconstruction)",
        grain=Grain.COARSE,
        needs=Needs.ACTIVATIONS,
        summary="Of two MLP channels that say the same, one goes; attention by mean activation.",
        formula="order of leaving: the pair with the largest nMI loses one; heads: mean |x|",
        source="Huang, Song, Pao, arXiv 2406.00030 (reconstruction); MLP only",
        score=score,
        parameters=(
            Parameter("tokens", 128, "Token positions that channels are compared at.", 16, 256),
            Parameter("s0", 3.0, "Kernel width in standard deviations, times n^(1/5).", 1.0, 100.0),
            Parameter("alpha", 1.01, "Order of the Rényi entropy.", 1.001, 10.0),
            Parameter("cluster", 64, "The most channels that are compared with each other.", 2, 64),
            Parameter(
                "pairs",
                "largest",
                "Which pair is next: the one that shares most, or a random one above the quantile.",
                choices=("largest", "random"),
            ),
            Parameter("quantile", 0.5, "For random pairs: the nMI they lie above.", 0.0, 1.0),
            Parameter(
                "seeds", 1, "Orders tried, from the seed on; the least harmful counts.", 1, 32
            ),
            Parameter("sparsity", 0.3, "The sparsity that seeds are compared at.", 0.05, 0.9),
            Parameter("windows", 8, "Calibration windows that seeds are compared on.", 1, 4096),
        ),
    )
)
