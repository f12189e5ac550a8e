"""Thinning: a recipe of single weights resolved against the model, layer by layer.

Which weights go depends, with most methods, on what enters a layer once the layers below have lost
theirs. So there is no importance map that any sparsity cuts through: the layers are walked from the
first to the last, each is looked at dense, thinned, and its output with the weights that are left
enters the next. The model is read and never written; what comes out is a plan like any other.

All matrices of a layer are chosen from one look at the dense layer, as the authors of SparseGPT and
Wanda do. Under a ridge repair each is solved again on what stays of it from the same look, before
the layer hands on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.gradients import gradient_sizes
from pruning_core.calibration.walk import Seen, Walk
from pruning_core.importance.registry import Estimator, estimator
from pruning_core.importance.weights import Cut, Matrix, Statistic, Thinned
from pruning_core.model.anatomy import Anatomy, Linear
from pruning_core.model.memory import demand_thinning
from pruning_core.planning.allocation import Place, unit_places
from pruning_core.planning.plan import (
    DENSE,
    Cost,
    Plan,
    by_site,
    check_recipe,
    dense_cost,
    marked,
)
from pruning_core.planning.ridge import under_masks
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Pattern, PatternKind, Recipe, Scalar, SiteKey
from pruning_core.repair import RepairKind


@dataclass(frozen=True)
class SiteMask:
    """What stays of the weights at one site.

    Attributes:
        weights: the thinned matrices by tensor name, as stored and in the model's dtype; zero where
            a weight has left.
        removed: how many have left.
        size: how many there were.
        signature: equal for equal choices.
    """

    weights: Mapping[str, torch.Tensor]
    removed: int
    size: int
    signature: str

    @property
    def sparsity(self) -> float:
        """The fraction that has left."""
        return self.removed / self.size


@dataclass(frozen=True)
class WeightPlan(Plan):
    """Which single weights go, so that they become zero; made by `thin`.

    Attributes:
        sites: what stays at every site that loses weights, in layer order.
    """

    recipe: Recipe
    anatomy: Anatomy
    sites: Mapping[SiteKey, SiteMask]

    @cached_property
    def signatures(self) -> Mapping[SiteKey, str]:
        """See `Plan`."""
        return {key: mask.signature for key, mask in self.sites.items()}

    @property
    def removed_parameters(self) -> int:
        """Weights that become zero."""
        return sum(mask.removed for mask in self.sites.values())

    @property
    def targeted_parameters(self) -> int:
        """All weights of the matrices that the method prunes."""
        method = estimator(self.recipe.scoring.estimator)
        return sum(linear.size for linear in targets(self.anatomy, method))

    @property
    def removed_weights(self) -> int:
        """See `Plan`."""
        return self.removed_parameters

    def with_weights(self, weights: Mapping[str, torch.Tensor], mark: str) -> WeightPlan:
        """See `Plan`."""
        sites = dict(self.sites)
        for key, own in by_site(self.anatomy, weights).items():
            size = sum(weight.numel() for weight in own.values())
            before = sites.get(key, SiteMask({}, 0, size, DENSE))
            sites[key] = replace(
                before,
                weights={**before.weights, **own},
                signature=marked(before.signature, mark),
            )
        return replace(self, sites=dict(sorted(sites.items())))

    def without_tensors(self) -> WeightPlan:
        """See `Plan`."""
        return replace(
            self, sites={key: replace(mask, weights={}) for key, mask in self.sites.items()}
        )

    def cost(self, dense_bytes: int, tokens: int) -> Cost:
        """Return what the model weighs: zeros are stored and multiplied like any other number."""
        dense = dense_cost(self.anatomy, dense_bytes, tokens)
        return Cost(self.parameters, dense.bytes, dense.operations)


def targets(anatomy: Anatomy, method: Estimator) -> tuple[Linear, ...]:
    """Return the matrices that a method prunes, in layer order."""
    assert method.weights is not None
    kinds = method.weights.sites
    return tuple(linear for linear in anatomy.linears if linear.key.kind in kinds)


def weight_places(anatomy: Anatomy, method: Estimator, pattern: Pattern) -> tuple[Place, ...]:
    """Return the places from which a method takes single weights, in layer order."""
    sizes: dict[SiteKey, int] = {}
    for linear in targets(anatomy, method):
        sizes[linear.key] = sizes.get(linear.key, 0) + linear.size
    return tuple(
        Place(
            key,
            size,
            lambda share: reachable(pattern, share),
            coarse=pattern.kind is PatternKind.N_OF_M,
        )
        for key, size in sizes.items()
    )


def places_for(anatomy: Anatomy, method: Estimator, pattern: Pattern) -> tuple[Place, ...]:
    """Return the places from which anything leaves under a pattern, units or single weights."""
    if pattern.kind is PatternKind.STRUCTURED:
        return unit_places(anatomy)
    return weight_places(anatomy, method, pattern)


def reachable(pattern: Pattern, sparsity: float) -> float:
    """Return the sparsity nearest to the asked one that a pattern has: n:m has one, and 0."""
    if pattern.kind is not PatternKind.N_OF_M:
        return sparsity
    share = pattern.n / pattern.m
    return share if sparsity >= share / 2 else 0.0


def thin(
    recipe: Recipe,
    fingerprint: str,
    model: PreTrainedModel,
    anatomy: Anatomy,
    windows: Callable[[], torch.Tensor],
    *,
    repairing: Callable[[], torch.Tensor] | None = None,
    known: MutableMapping[str, SiteMask] | None = None,
    tick: Tick = silent,
) -> WeightPlan:
    """Choose the weights that go under a recipe whose pattern is unstructured or n:m.

    Args:
        fingerprint: of the model's weights.
        model: dense, frozen; it is left as it was.
        windows: returns the recipe's calibration windows, int64 [samples, tokens]; not called by
            methods that look at no text.
        repairing: returns those that a repair looks at, where it has windows of its own.
        known: sites thinned before, by signature, which are not thinned again; gains the new ones.
        tick: hears of every layer.

    Raises:
        PrunescopeError: as `check_recipe`, if a method cannot do what is asked of a matrix, or
            there is no memory for what comes of it.
        Cancelled: by `tick`.
    """
    check_recipe(recipe, fingerprint, anatomy)
    known = {} if known is None else known
    work = _Thinning(recipe, model, anatomy, windows, repairing, known, tick)
    return WeightPlan(recipe, anatomy, work.sites())


class _Thinning:
    """One recipe being carried out."""

    def __init__(
        self,
        recipe: Recipe,
        model: PreTrainedModel,
        anatomy: Anatomy,
        windows: Callable[[], torch.Tensor],
        repairing: Callable[[], torch.Tensor] | None,
        known: MutableMapping[str, SiteMask],
        tick: Tick,
    ) -> None:
        self._recipe = recipe
        self._model = model
        self._anatomy = anatomy
        self._draw = windows
        self._known = known
        self._tick = tick
        self._method = estimator(recipe.scoring.estimator)
        assert self._method.weights is not None
        self._thin = self._method.weights.thin
        self._repairs = recipe.repair.kind is RepairKind.RIDGE
        self._draw_again = repairing if self._repairs else None
        self._statistics = self._method.weights.statistics
        if self._repairs and self._draw_again is None:
            self._statistics |= {Statistic.HESSIAN}
        self._settings = self._method.settings(dict(recipe.scoring.params))
        self._wanted: dict[SiteKey, list[Linear]] = {}
        for linear in targets(anatomy, self._method):
            if self._sparsity(linear.key) > 0:
                self._wanted.setdefault(linear.key, []).append(linear)

    def sites(self) -> dict[SiteKey, SiteMask]:
        """Return what stays at every site that loses something."""
        gradients: Mapping[str, torch.Tensor] = {}
        masks: dict[SiteKey, SiteMask] = {}
        names = self._signatures()
        missing = {key for key in self._wanted if names[key] not in self._known}
        size = sum(linear.size for key in missing for linear in self._wanted[key])
        kept = Statistic.GRADIENT in self._statistics
        demand_thinning(self._model, size, gradients=kept)
        if missing and kept:
            tensors = [linear.tensor for key in missing for linear in self._wanted[key]]
            gradients = gradient_sizes(self._model, tensors, self._draw(), self._tick)
        walk = self._walk() if missing else None
        again = self._walk_again() if missing else None
        last = max((key.layer for key in missing), default=-1)
        for layer in range(self._anatomy.layers):
            here = [key for key in self._wanted if key.layer == layer]
            seen: Mapping[str, Seen] = {}
            new = missing.intersection(here)
            if walk is not None and new:
                seen = self._look(walk, new)
            told = again.look(self._linears(new), hessian=True) if again and new else seen
            for key in here:
                self._tick("choosing weights", layer, self._anatomy.layers, str(key))
                if key in missing:
                    mask = self._thin_site(key, names[key], seen, told, gradients)
                    self._known[names[key]] = mask
                masks[key] = self._known[names[key]]
            for each in (walk, again):
                if each is not None and layer < last:
                    each.step(self._prefix(masks, here))
        return masks

    def _walk(self) -> Walk | None:
        if not self._statistics & {Statistic.NORMS, Statistic.HESSIAN, Statistic.REGIONAL}:
            return None
        return Walk(self._model, self._anatomy, self._draw(), self._tick)

    def _walk_again(self) -> Walk | None:
        """Return a walk with the windows that a repair has of its own."""
        if self._draw_again is None:
            return None
        return Walk(self._model, self._anatomy, self._draw_again(), self._tick)

    def _linears(self, keys: Collection[SiteKey]) -> list[Linear]:
        return [linear for key in keys for linear in self._wanted[key]]

    def _look(self, walk: Walk, keys: Collection[SiteKey]) -> Mapping[str, Seen]:
        return walk.look(
            self._linears(keys),
            hessian=Statistic.HESSIAN in self._statistics,
            regional=Statistic.REGIONAL in self._statistics,
        )

    def _prefix(
        self, masks: Mapping[SiteKey, SiteMask], here: list[SiteKey]
    ) -> dict[str, torch.Tensor]:
        """Return what the layer shall hand to the next one with."""
        if self._settings.get("prefix") == "dense":
            return {}
        return {name: weight for key in here for name, weight in masks[key].weights.items()}

    def _thin_site(
        self,
        key: SiteKey,
        signature: str,
        seen: Mapping[str, Seen],
        told: Mapping[str, Seen],
        gradients: Mapping[str, torch.Tensor],
    ) -> SiteMask:
        """Return what stays at a site.

        Args:
            seen: what the choice may look at, by tensor.
            told: the same for the repair.
            gradients: their sizes, by tensor, where the method asks for them.
        """
        cut = Cut.of(self._recipe.pattern, self._sparsity(key))
        settings: Mapping[str, Scalar] = self._settings
        weights, removed, size = {}, 0, 0
        for linear in self._wanted[key]:
            parameter = self._model.get_parameter(linear.tensor).detach()
            matrix = self._matrix(linear, seen, gradients)
            result = self._thin(matrix, cut, settings)
            stays = result.weight
            if self._repairs:
                stays = self._repaired(matrix, result, told[linear.tensor])
            kept = stays.T if linear.transposed else stays
            weights[linear.tensor] = kept.to(parameter.dtype).contiguous()
            removed += int(result.removed.sum())
            size += parameter.numel()
        return SiteMask(weights, removed, size, signature)

    def _repaired(self, matrix: Matrix, result: Thinned, told: Seen) -> torch.Tensor:
        """Return the thinned matrix, solved again on what stays, fp32 [out, in]."""
        assert told.moments.hessian is not None
        return under_masks(
            matrix.weight,
            told.moments.hessian,
            ~result.removed,
            self._recipe.repair.damping,
            matrix.name,
            start=result.weight,
        )

    def _matrix(
        self, linear: Linear, seen: Mapping[str, Seen], gradients: Mapping[str, torch.Tensor]
    ) -> Matrix:
        """Return what the method may see of one matrix, [out, in]."""
        found = seen.get(linear.tensor)
        outputs = [other.tensor for other in self._wanted[linear.key] if other.is_output]
        channels = seen.get(outputs[0]) if outputs else None

        def oriented(values: torch.Tensor | None) -> torch.Tensor | None:
            return values.T if values is not None and linear.transposed else values

        weight = oriented(self._model.get_parameter(linear.tensor).detach().float())
        assert weight is not None
        return Matrix(
            linear.tensor,
            weight,
            norms=found.moments.norms if found else None,
            hessian=found.moments.hessian if found else None,
            gradient=oriented(gradients.get(linear.tensor)),
            regional=oriented(found.regional) if found else None,
            channels=channels.moments.norms if channels else None,
            axis=linear.channel_axis,
        )

    def _sparsity(self, key: SiteKey) -> float:
        return reachable(self._recipe.pattern, self._recipe.at(key))

    def _signatures(self) -> dict[SiteKey, str]:
        """Return for every wanted site a digest of all that decides what stays there."""
        below = hashlib.sha256(DENSE.encode())
        names: dict[SiteKey, str] = {}
        for layer in range(self._anatomy.layers):
            entering = below.hexdigest()
            for key in (key for key in self._wanted if key.layer == layer):
                content = f"{self._recipe.scoring.digest} {self._recipe.pattern} "
                content += f"{self._recipe.repair} {key} "
                content += f"{self._sparsity(key)!r} {entering}"
                names[key] = hashlib.sha256(content.encode()).hexdigest()
                looks = self._statistics or self._repairs
                if looks and self._settings.get("prefix") != "dense":
                    below.update(names[key].encode())
        return names
