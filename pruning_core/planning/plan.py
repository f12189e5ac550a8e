"""The plan: a recipe resolved against an importance map. Nothing has been touched yet.

It says for every site which units stay and for the model what that leaves in parameters, bytes and
operations. A plan is plain data: it can be shown, compared, counted and thrown away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.map import ImportanceMap
from pruning_core.importance.registry import estimator, estimators
from pruning_core.model.anatomy import Anatomy, Part, Site, Width
from pruning_core.planning.selection import select
from pruning_core.recipe import Recipe, SiteKey, SiteKind

DENSE = "dense"
"""The signature of a site that keeps everything."""


@dataclass(frozen=True)
class Cost:
    """What a model weighs.

    Attributes:
        parameters: parameters of the whole model.
        bytes: their bytes in memory.
        operations: floating-point operations per token in a prefill of the given length.
    """

    parameters: int
    bytes: int
    operations: int


@dataclass(frozen=True)
class SitePlan:
    """What stays at one site.

    Attributes:
        site: the site.
        asked: the sparsity that the recipe asked for.
        width: the reachable width it snapped to.
        kept: the indices that stay, by part.
        signature: equal for equal choices; `DENSE` when everything stays.
    """

    site: Site
    asked: float
    width: Width
    kept: Mapping[Part, torch.Tensor]
    signature: str


@dataclass(frozen=True)
class Plan:
    """Which units go, site by site; made by `make_plan`.

    Attributes:
        recipe: what was asked for.
        anatomy: the model it is for.
        sites: a plan for every prunable site, in layer order.
    """

    recipe: Recipe
    anatomy: Anatomy
    sites: Mapping[SiteKey, SitePlan]

    @property
    def removed_parameters(self) -> int:
        """Parameters that leave."""
        return sum(plan.site.parameters - plan.width.parameters for plan in self.sites.values())

    @property
    def sparsity(self) -> float:
        """The fraction of prunable parameters that leaves."""
        return self.removed_parameters / self.anatomy.prunable_parameters

    @property
    def sparsity_of_all(self) -> float:
        """The fraction of all parameters that leaves, embeddings counted in."""
        return self.removed_parameters / self.anatomy.parameters

    @property
    def parameters(self) -> int:
        """Parameters left in the model."""
        return self.anatomy.parameters - self.removed_parameters

    def cost(self, dense_bytes: int, tokens: int) -> Cost:
        """Return what the pruned model weighs; see `dense_cost` for the arguments."""
        dense = dense_cost(self.anatomy, dense_bytes, tokens)
        weights, head_positions = 0, 0
        for plan in self.sites.values():
            counts = {part: len(indices) for part, indices in plan.kept.items()}
            weights += _matrix_weights(plan.site, plan.site.counts)
            weights -= _matrix_weights(plan.site, counts)
            gone = plan.site.counts.get(Part.QUERY_HEAD, 0) - counts.get(Part.QUERY_HEAD, 0)
            head_positions += gone * self.anatomy.head_dim * tokens
        return Cost(
            parameters=self.parameters,
            bytes=dense.bytes - self.removed_parameters * self.anatomy.element_size,
            operations=dense.operations - 2 * weights - 2 * head_positions,
        )

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """`prefixes` of what this plan does."""
        return prefixes(self.anatomy, {key: plan.signature for key, plan in self.sites.items()})


def dense_cost(anatomy: Anatomy, dense_bytes: int, tokens: int) -> Cost:
    """Return what the dense model weighs.

    Args:
        dense_bytes: bytes of its parameters.
        tokens: length of the prefill that operations are counted for: two per matrix weight that a
            token meets, and four per head dimension and visible position in attention, of which a
            causal prefill sees half the length on average.
    """
    heads = sum(site.counts[Part.QUERY_HEAD] for site in anatomy.of_kind(SiteKind.ATTENTION))
    operations = 2 * anatomy.weights_per_token + 2 * heads * anatomy.head_dim * tokens
    return Cost(anatomy.parameters, dense_bytes, operations)


def prefixes(anatomy: Anatomy, signatures: Mapping[SiteKey, str]) -> tuple[str, ...]:
    """Return one digest for each layer entrance, and a last one for what leaves the last layer.

    The digest at ``i`` depends on the sites of layers below ``i`` only: two models agree on it
    exactly if the same hidden states enter their layer ``i``. Sites that are not named are dense.
    """
    running = hashlib.sha256()
    digests = [running.hexdigest()]
    for layer in range(anatomy.layers):
        for kind in SiteKind:
            running.update(signatures.get(SiteKey(layer, kind), DENSE).encode())
        digests.append(running.hexdigest())
    return tuple(digests)


def check_recipe(recipe: Recipe, fingerprint: str, anatomy: Anatomy) -> None:
    """Refuse a recipe that cannot be carried out on a model.

    Args:
        fingerprint: of the model's weights.

    Raises:
        PrunescopeError: if the recipe is for another model, names a site that the model does not
            have or that cannot be pruned, or an estimator that cannot follow its pattern.
    """
    if recipe.fingerprint != fingerprint:
        raise PrunescopeError(
            f"The recipe is for another model ({recipe.model}, weights {recipe.fingerprint}); the "
            f"loaded weights are {fingerprint}. Load that model, or make a recipe for this "
            "one."
        )
    method = estimator(recipe.scoring.estimator)
    if not method.follows(recipe.pattern.kind):
        able = ", ".join(other.name for other in estimators(recipe.pattern.kind))
        raise PrunescopeError(
            f"{method.title} cannot choose what leaves under the pattern '{recipe.pattern}'. "
            + (f"Estimators that can: {able}." if able else "No estimator can yet.")
        )
    refused = {refusal.key: refusal.reason for refusal in anatomy.refusals}
    for key, sparsity in recipe.sparsity:
        if key in refused and sparsity > 0:
            raise PrunescopeError(f"Site {key} cannot be pruned: {refused[key]}.")
        if key not in anatomy.by_key and key not in refused:
            raise PrunescopeError(
                f"The recipe names site {key}, but the model has {anatomy.layers} layers, counted "
                "from 0."
            )


def make_plan(recipe: Recipe, scores: ImportanceMap, anatomy: Anatomy) -> Plan:
    """Resolve a recipe against an importance map; the model is not looked at.

    Raises:
        PrunescopeError: as `check_recipe`.
    """
    check_recipe(recipe, scores.fingerprint, anatomy)
    asked = dict(recipe.sparsity)
    return Plan(
        recipe,
        anatomy,
        {site.key: _plan_site(site, scores, asked.get(site.key, 0.0)) for site in anatomy.sites},
    )


def _plan_site(site: Site, scores: ImportanceMap, asked: float) -> SitePlan:
    width = site.snap(asked)
    kept = select(site, scores.sites[site.key], width)
    dense = width.parameters == site.parameters
    return SitePlan(site, asked, width, kept, DENSE if dense else _signature(site, kept))


def _signature(site: Site, kept: Mapping[Part, torch.Tensor]) -> str:
    content = hashlib.sha256(str(site.key).encode())
    for part in sorted(kept):
        content.update(kept[part].numpy().tobytes())
        content.update(b"|")
    return content.hexdigest()


def _matrix_weights(site: Site, counts: Mapping[Part, int]) -> int:
    return sum(
        coupling.slice_size * sum(counts[s.part] * s.width for s in coupling.segments)
        for coupling in site.matrices
    )
