"""The learned fusion: attention over the two granularities, one blend per unit.

For a unit with per-sample profiles F^ and C^ (`granularity`, normalised), N samples, d dimensions:

    t_f = log F^,  t_c = log C^                      the two tokens, in R^N
    q   = Wq [t_f; t_c] + b                          what this unit asks for
    k_f = Wk t_f + e_f,  k_c = Wk t_c + e_c          what either granularity offers
    alpha = softmax([q.k_f, q.k_c] / sqrt(d) + [+1, -1] * (layer bias + unit logit))
    I   = alpha_f * mean F^ + alpha_c * mean C^

Wq, Wk, b, e are shared by all layers, one set for attention and one for MLPs. All of it is trained
end to end: I ranks the units of each site, a straight-through mask removes the lowest, and the loss
is KL(dense || masked) on calibration text; the model's weights stay frozen. The mask is hard in the
forward pass and ``sigmoid((log I - log threshold) / tau)`` in the backward pass, with tau falling.

Reconstruction. The paper (HyWIA, AAAI 2025, arXiv 2403.10799) fuses both granularities by attention
end to end, but its equations were not at hand. The shared attention alone only reaches parity with
the better granularity; the logit per unit is what lets the fusion decide unit by unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from pruning_core.importance.granularity import Profiles, SiteProfiles
from pruning_core.importance.map import Fusion, SiteFusion, SiteScores
from pruning_core.model.anatomy import Site
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey, SiteKind

DIMENSIONS = 8
TEMPERATURES = (0.6, 0.1)
UNIT_RATE, SHARED_RATE = 0.1, 0.02


class Divergence(Protocol):
    """What the fusion learns from: see `MaskedDivergence`."""

    @property
    def windows(self) -> int: ...

    def backward(self, masks: Mapping[SiteKey, torch.Tensor], windows: list[int]) -> float: ...


@dataclass(frozen=True)
class Training:
    """How the fusion is trained.

    Attributes:
        sparsity: the middle of the sparsities that masks are made for.
        spread: every step draws each site's sparsity from the middle plus or minus this.
        steps: optimiser steps.
        batch: windows in a step.
        seed: for the draws and the initial weights.
    """

    sparsity: float
    spread: float
    steps: int
    batch: int
    seed: int


def learn_fusion(
    sites: Mapping[SiteKey, tuple[Site, SiteProfiles]],
    divergence: Divergence,
    training: Training,
    tick: Tick = silent,
) -> Fusion:
    """Train the attention and return what it decided.

    Args:
        sites: every prunable site with its profiles.
        divergence: KL of the masked model and its gradients.
        tick: hears one step per optimiser step; the note carries the loss.

    Raises:
        Cancelled: by `tick`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        blends = {key: _SiteBlend(site, profiles) for key, (site, profiles) in sites.items()}
        samples = next(iter(blends.values())).units.samples
        shared = {kind: _SharedAttention(samples) for kind in SiteKind}
    logits = [logit for blend in blends.values() for logit in blend.logits()]
    common = [blend.bias for blend in blends.values()]
    common += [parameter for module in shared.values() for parameter in module.parameters()]
    optimiser = torch.optim.Adam(
        [{"params": logits, "lr": UNIT_RATE}, {"params": common, "lr": SHARED_RATE}]
    )
    draw = torch.Generator().manual_seed(training.seed)
    order = _batches(divergence.windows, training, draw)
    curve: list[float] = []
    for step in range(training.steps):
        note = f"KL {curve[-1]:.3f}" if curve else ""
        tick("learning the fusion", step, training.steps, note)
        temperature = _between(*TEMPERATURES, step / max(training.steps - 1, 1))
        optimiser.zero_grad()
        with torch.enable_grad():
            masks = {
                key: blend.mask(shared[key.kind], _draw_sparsity(training, draw), temperature)
                for key, blend in blends.items()
            }
            curve.append(divergence.backward(masks, order[step]))
        optimiser.step()
    tick("learning the fusion", training.steps, training.steps)
    with torch.no_grad():
        return Fusion(
            tuple(curve), {key: blend.decided(shared[key.kind]) for key, blend in blends.items()}
        )


def fused_scores(fusion: SiteFusion) -> SiteScores:
    """Return the scores that a site's attention makes of its two granularities."""
    heads = None
    if fusion.attention.heads is not None:
        assert fusion.fine.heads is not None
        assert fusion.coarse.heads is not None
        heads = _mix(fusion.attention.heads, fusion.fine.heads, fusion.coarse.heads)
    return SiteScores(_mix(fusion.attention.units, fusion.fine.units, fusion.coarse.units), heads)


def _mix(share: torch.Tensor, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    return share * fine + (1 - share) * coarse


class _SharedAttention(nn.Module):
    """Wq, Wk and the granularity embeddings of one kind of site."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.query = nn.Linear(2 * samples, DIMENSIONS)
        self.key = nn.Linear(samples, DIMENSIONS, bias=False)
        self.embedding = nn.Parameter(torch.zeros(2, DIMENSIONS))

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Return attention logits [groups, 2] for tokens [groups, samples]."""
        query = self.query(torch.cat((fine, coarse), dim=1))
        keys = torch.stack((self.key(fine), self.key(coarse)), dim=1) + self.embedding
        return (keys @ query[:, :, None]).squeeze(-1) / DIMENSIONS**0.5


class _Blend(nn.Module):
    """One set of groups: units of a site, or its query heads."""

    def __init__(self, profiles: Profiles) -> None:
        super().__init__()
        normal = profiles.normalised()
        self.samples = normal.fine.shape[0]
        self._tokens = [p.clamp_min(1e-6).log().T for p in (normal.fine, normal.coarse)]
        self.fine, self.coarse = normal.fine.mean(0), normal.coarse.mean(0)
        self.logit = nn.Parameter(torch.zeros(len(self.fine)))

    def attention(self, shared: _SharedAttention, bias: torch.Tensor) -> torch.Tensor:
        """Return alpha_f, [groups]."""
        tilt = self.logit + bias
        return torch.softmax(shared(*self._tokens) + torch.stack((tilt, -tilt), dim=1), dim=1)[:, 0]

    def log_importance(self, shared: _SharedAttention, bias: torch.Tensor) -> torch.Tensor:
        """Return log I, [groups]."""
        mixed = _mix(self.attention(shared, bias), self.fine, self.coarse)
        return mixed.clamp_min(1e-12).log()


class _SiteBlend(nn.Module):
    """A site's units and heads with what the fusion learns about them alone."""

    def __init__(self, site: Site, profiles: SiteProfiles) -> None:
        super().__init__()
        self._site = site
        self.units = _Blend(profiles.units)
        self.heads = _Blend(profiles.heads) if profiles.heads else None
        self.bias = nn.Parameter(torch.zeros(()))

    def logits(self) -> list[nn.Parameter]:
        """Return what is learned for every unit and every head alone."""
        return [self.units.logit, *([self.heads.logit] if self.heads else [])]

    def mask(self, shared: _SharedAttention, sparsity: float, temperature: float) -> torch.Tensor:
        """Return a straight-through mask for the width nearest to a sparsity.

        Shape: [channels] for an MLP, [query heads] for attention.
        """
        width = self._site.snap(sparsity)
        units = self.units.log_importance(shared, self.bias)
        if self.heads is None:
            return _straight_through(units[None], width.units, temperature)[0]
        heads = self.heads.log_importance(shared, self.bias)
        by_group = heads.view(self._site.units, self._site.heads_per_unit)
        kept_units = _straight_through(units[None], width.units, temperature)[0]
        kept_heads = _straight_through(by_group, width.heads, temperature)
        return (kept_units[:, None] * kept_heads).flatten()

    def decided(self, shared: _SharedAttention) -> SiteFusion:
        """Return both granularities and the attention between them."""
        units, heads = self.units, self.heads
        if heads is None:
            return SiteFusion(
                SiteScores(units.fine),
                SiteScores(units.coarse),
                SiteScores(units.attention(shared, self.bias)),
            )
        return SiteFusion(
            SiteScores(units.fine, heads.fine),
            SiteScores(units.coarse, heads.coarse),
            SiteScores(units.attention(shared, self.bias), heads.attention(shared, self.bias)),
        )


def _straight_through(scores: torch.Tensor, count: int, temperature: float) -> torch.Tensor:
    """Keep the `count` highest of every row: hard forward, sigmoid backward. [rows, groups]."""
    if count == 0 or count == scores.shape[1]:
        return torch.full_like(scores, float(count > 0))
    ordered = scores.detach().sort(dim=1, descending=True)
    threshold = ordered.values[:, count - 1 : count + 1].mean(1, keepdim=True)
    soft = torch.sigmoid((scores - threshold) / temperature)
    hard = torch.zeros_like(scores).scatter(1, ordered.indices[:, :count], 1.0)
    # In this order: the difference is exactly 0, where (hard + soft) - soft would round.
    return hard + (soft - soft.detach())


def _draw_sparsity(training: Training, draw: torch.Generator) -> float:
    offset = 2 * float(torch.rand((), generator=draw)) - 1
    return min(max(training.sparsity + training.spread * offset, 0.0), 1.0)


def _batches(windows: int, training: Training, draw: torch.Generator) -> list[list[int]]:
    """Cycle through shuffled windows so that each is seen equally often."""
    needed = training.steps * training.batch
    rounds = -(-needed // windows)
    stream = torch.cat([torch.randperm(windows, generator=draw) for _ in range(rounds)])
    return stream[:needed].view(training.steps, training.batch).tolist()


def _between(start: float, end: float, share: float) -> float:
    return start * (end / start) ** share
