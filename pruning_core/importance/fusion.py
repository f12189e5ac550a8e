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
forward pass and ``sigmoid((log I - log threshold) / tau)`` in the backward pass, with tau falling;
towards the end the learning rates may fall as well (`Training.settle`).

Reconstruction. The paper (HyWIA, AAAI 2025, arXiv 2403.10799) fuses both granularities by attention
end to end, but its equations were not at hand. The shared attention alone only reaches parity with
the better granularity; the logit per unit is what lets the fusion decide unit by unit.

What is learned may be something else than attention: `train_fusion` takes any `Shares`.

Training may end early and keep what it has learned, by `Training.stop` or by a tick that raises
`Enough`; both come to the same numbers. tau has then not fallen all the way: the last gradients
were those of softer masks than the schedule ends with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from pruning_core.importance.granularity import Profiles, SiteProfiles
from pruning_core.importance.map import Fusion, SiteFusion, SiteScores
from pruning_core.model.anatomy import Site
from pruning_core.progress import LEARNING_FUSION, Enough, Tick, silent
from pruning_core.recipe import SiteKey, SiteKind

DIMENSIONS = 8
TEMPERATURES = (0.6, 0.1)
UNIT_RATE, SHARED_RATE = 0.1, 0.02


class Divergence(Protocol):
    """What the fusion learns from: see `MaskedDivergence`."""

    @property
    def windows(self) -> int: ...

    def backward(self, masks: Mapping[SiteKey, torch.Tensor], windows: list[int]) -> float: ...


class Shares(Protocol):
    """What a fusion learns: for every unit and head the share of its fine-grained score, 0 to 1."""

    def groups(self) -> list[dict[str, Any]]:
        """Return what is learned and at which rate, as parameter groups of an optimiser."""
        ...

    def units(self, key: SiteKey) -> torch.Tensor:
        """Return the shares of a site's units, [units], with a graph."""
        ...

    def heads(self, key: SiteKey) -> torch.Tensor:
        """Return the shares of an attention site's query heads, [query heads], with a graph."""
        ...

    def penalty(self) -> torch.Tensor | None:
        """Return what is added to the divergence, a number with a graph; None for nothing."""
        ...


@dataclass(frozen=True)
class Training:
    """How the fusion is trained.

    Attributes:
        sparsity: the middle of the sparsities that masks are made for.
        spread: every step draws each site's sparsity from the middle plus or minus this.
        steps: optimiser steps that the temperatures and the batches are laid out for.
        batch: windows in a step.
        seed: for the draws and the initial weights.
        stop: after so many steps training ends, though laid out for more; 0 for never.
        masked: the sites at which units leave, all for None; the others stay dense.
        settle: over this share of the steps, the last ones, the rates fall to nothing in a straight
            line, so that a single batch no longer turns over what the others have settled; 0 for
            never.
    """

    sparsity: float
    spread: float
    steps: int
    batch: int
    seed: int
    stop: int = 0
    masked: frozenset[SiteKey] | None = None
    settle: float = 0.0

    @property
    def last(self) -> int:
        """Steps until training ends by itself."""
        return min(self.steps, self.stop or self.steps)

    def pace(self, step: int) -> float:
        """Return what the rates are multiplied by in a step, counted from 0."""
        ahead = 1 - step / self.steps
        return min(ahead / self.settle, 1.0) if self.settle else 1.0


Sites = Mapping[SiteKey, tuple[Site, SiteProfiles]]
"""Every prunable site with its profiles."""


def learn_fusion(
    sites: Sites, divergence: Divergence, training: Training, tick: Tick = silent
) -> Fusion:
    """Train the attention and return what it decided; arguments as for `train_fusion`.

    Raises:
        Cancelled: by `tick`.
    """
    return train_fusion(_Attention(sites, training.seed), sites, divergence, training, tick)


def train_fusion(
    shares: Shares,
    sites: Sites,
    divergence: Divergence,
    training: Training,
    tick: Tick = silent,
) -> Fusion:
    """Train shares end to end and return what they came to.

    Args:
        shares: what is learned, for the same sites.
        sites: every prunable site with its profiles.
        divergence: KL of the masked model and its gradients.
        tick: hears one step per optimiser step; the note carries the divergence. When it raises
            `Enough` after at least one step, what has been learned so far is returned, and the
            curve has fewer points.

    Raises:
        Cancelled: by `tick`; `Enough`, which is one, if nothing has been learned yet.
    """
    blends = {key: _SiteBlend(site, profiles) for key, (site, profiles) in sites.items()}
    optimiser = torch.optim.Adam(shares.groups())
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, training.pace)
    draw = torch.Generator().manual_seed(training.seed)
    order = _batches(divergence.windows, training, draw)
    curve: list[float] = []
    while _goes_on(curve, training, tick):
        step = len(curve)
        temperature = _between(*TEMPERATURES, step / max(training.steps - 1, 1))
        optimiser.zero_grad()
        with torch.enable_grad():
            masks = {
                key: blend.mask(shares, _draw_sparsity(training, draw), temperature)
                for key, blend in blends.items()
                if training.masked is None or key in training.masked
            }
            curve.append(divergence.backward(masks, order[step]))
            penalty = shares.penalty()
            if penalty is not None:
                penalty.backward()
        optimiser.step()
        rates.step()
    with torch.no_grad():
        return Fusion(tuple(curve), {key: blend.decided(shares) for key, blend in blends.items()})


def _goes_on(curve: list[float], training: Training, tick: Tick) -> bool:
    """Report the steps that are done; return whether there is to be another one."""
    try:
        tick(LEARNING_FUSION, len(curve), training.last, f"KL {curve[-1]:.3f}" if curve else "")
    except Enough:
        if not curve:
            raise
        return False
    return len(curve) < training.last


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


def _log_mix(share: torch.Tensor, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    return _mix(share, fine, coarse).clamp_min(1e-12).log()


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


class _GroupAttention(nn.Module):
    """One set of groups: units of a site, or its query heads."""

    def __init__(self, profiles: Profiles) -> None:
        super().__init__()
        normal = profiles.normalised()
        self.samples, groups = normal.fine.shape
        self._tokens = [p.clamp_min(1e-6).log().T for p in (normal.fine, normal.coarse)]
        self.logit = nn.Parameter(torch.zeros(groups))

    def forward(self, shared: _SharedAttention, bias: torch.Tensor) -> torch.Tensor:
        """Return alpha_f, [groups]."""
        tilt = self.logit + bias
        return torch.softmax(shared(*self._tokens) + torch.stack((tilt, -tilt), dim=1), dim=1)[:, 0]


class _Attention:
    """Attention over the two granularities, the formulas above: the shares of the hybrid."""

    def __init__(self, sites: Sites, seed: int) -> None:
        self._units = {key: _GroupAttention(own.units) for key, (_, own) in sites.items()}
        self._heads = {
            key: _GroupAttention(own.heads) for key, (_, own) in sites.items() if own.heads
        }
        self._biases = {key: nn.Parameter(torch.zeros(())) for key in sites}
        samples = next(iter(self._units.values())).samples
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._shared = {kind: _SharedAttention(samples) for kind in SiteKind}

    def groups(self) -> list[dict[str, Any]]:
        logits = [groups.logit for groups in (*self._units.values(), *self._heads.values())]
        common = [*self._biases.values()]
        common += [
            parameter for module in self._shared.values() for parameter in module.parameters()
        ]
        return [{"params": logits, "lr": UNIT_RATE}, {"params": common, "lr": SHARED_RATE}]

    def units(self, key: SiteKey) -> torch.Tensor:
        return self._units[key](self._shared[key.kind], self._biases[key])

    def heads(self, key: SiteKey) -> torch.Tensor:
        return self._heads[key](self._shared[key.kind], self._biases[key])

    def penalty(self) -> None:
        return None


class _SiteBlend:
    """A site's two granularities, to be mixed by shares."""

    def __init__(self, site: Site, profiles: SiteProfiles) -> None:
        self._site = site
        self._fine, self._coarse = profiles.scores("fine"), profiles.scores("coarse")

    def mask(self, shares: Shares, sparsity: float, temperature: float) -> torch.Tensor:
        """Return a straight-through mask for the width nearest to a sparsity.

        Shape: [channels] for an MLP, [query heads] for attention.
        """
        key, width = self._site.key, self._site.snap(sparsity)
        units = _log_mix(shares.units(key), self._fine.units, self._coarse.units)
        if self._fine.heads is None or self._coarse.heads is None:
            return _straight_through(units[None], width.units, temperature)[0]
        heads = _log_mix(shares.heads(key), self._fine.heads, self._coarse.heads)
        by_group = heads.view(self._site.units, self._site.heads_per_unit)
        kept_units = _straight_through(units[None], width.units, temperature)[0]
        kept_heads = _straight_through(by_group, width.heads, temperature)
        return (kept_units[:, None] * kept_heads).flatten()

    def decided(self, shares: Shares) -> SiteFusion:
        """Return both granularities and the shares between them."""
        key = self._site.key
        heads = None if self._fine.heads is None else shares.heads(key)
        return SiteFusion(self._fine, self._coarse, SiteScores(shares.units(key), heads))


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
