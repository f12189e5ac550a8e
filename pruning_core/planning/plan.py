"""The plan: a recipe resolved against an importance map. Nothing has been touched yet.

It says for every site which units stay and for the model what that leaves in parameters, bytes and
operations. A plan is plain data: it can be shown, compared, counted and thrown away.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.map import ImportanceMap
from pruning_core.importance.registry import able
from pruning_core.model.anatomy import Anatomy, Part, Site, Width
from pruning_core.planning.selection import select
from pruning_core.recipe import Pattern, PatternKind, Recipe, SiteKey, SiteKind
from pruning_core.repair import Repair, RepairKind

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
        bias: fp32 [hidden], what a repair adds to the output projection's bias, None for nothing.
        weights: tensors by name, in the shapes of this width, that stand in for those gathered from
            the dense ones: repair or training has changed them.
        signature: equal for equal choices; `DENSE` when everything stays.
    """

    site: Site
    asked: float
    width: Width
    kept: Mapping[Part, torch.Tensor]
    signature: str
    bias: torch.Tensor | None = None
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def kept_counts(self) -> dict[Part, int]:
        """How many items of each part stay."""
        return {part: len(indices) for part, indices in self.kept.items()}

    @property
    def removed(self) -> torch.Tensor:
        """The channels or query heads that leave, int64, ascending."""
        part = Part.CHANNEL if self.site.key.kind is SiteKind.MLP else Part.QUERY_HEAD
        gone = torch.ones(self.site.counts[part], dtype=torch.bool)
        gone[self.kept[part]] = False
        return gone.nonzero()[:, 0]

    @property
    def adds_bias(self) -> bool:
        """Whether the output projection gains a bias that it had not."""
        return self.bias is not None and not self.site.has_output_bias


class Plan(ABC):
    """What leaves a model, site by site: whole units (`UnitPlan`) or single weights (`WeightPlan`).

    Attributes:
        recipe: what was asked for.
        anatomy: the model it is for.
    """

    recipe: Recipe
    anatomy: Anatomy

    @property
    @abstractmethod
    def signatures(self) -> Mapping[SiteKey, str]:
        """What is done at each site: equal for equal outcomes, `DENSE` where nothing is."""

    @property
    @abstractmethod
    def removed_parameters(self) -> int:
        """Parameters that leave, or become zero."""

    @property
    @abstractmethod
    def targeted_parameters(self) -> int:
        """Parameters that a sparsity of 1 everywhere would remove."""

    @property
    @abstractmethod
    def removed_weights(self) -> int:
        """Of the removed parameters those in the layers' matrices."""

    @abstractmethod
    def cost(self, dense_bytes: int, tokens: int) -> Cost:
        """Return what the pruned model weighs; see `dense_cost` for the arguments."""

    @abstractmethod
    def with_weights(self, weights: Mapping[str, torch.Tensor], mark: str) -> Plan:
        """Return the plan with other matrices in place of those it would leave.

        Args:
            weights: matrices of the layers by tensor name, in the shapes the plan gives them.
            mark: identifies how they were made; what is made in the same way is equal.

        Raises:
            ValueError: if one is no matrix of a layer.
        """

    def without_tensors(self) -> Plan:
        """Return what the plan says, without weights that it may hold; it can't be applied."""
        return self

    @property
    def sparsity(self) -> float:
        """The fraction of the targeted parameters that leaves."""
        return self.removed_parameters / self.targeted_parameters

    @property
    def sparsity_of_linears(self) -> float:
        """The fraction of all weights in the matrices of the layers that leaves."""
        return self.removed_weights / self.anatomy.linear_weights

    @property
    def sparsity_of_all(self) -> float:
        """The fraction of all parameters that leaves, embeddings counted in."""
        return self.removed_parameters / self.anatomy.parameters

    @property
    def added_parameters(self) -> int:
        """Parameters that a repair adds."""
        return 0

    @property
    def parameters(self) -> int:
        """Parameters left in the model."""
        return self.anatomy.parameters - self.removed_parameters + self.added_parameters

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """`prefixes` of what this plan does."""
        return prefixes(self.anatomy, self.signatures)


@dataclass(frozen=True)
class UnitPlan(Plan):
    """Which units go, so that tensors shrink; made by `make_plan`.

    Attributes:
        sites: a plan for every prunable site, in layer order.
    """

    recipe: Recipe
    anatomy: Anatomy
    sites: Mapping[SiteKey, SitePlan]

    @cached_property
    def signatures(self) -> Mapping[SiteKey, str]:
        """See `Plan`."""
        return {key: plan.signature for key, plan in self.sites.items()}

    def with_weights(self, weights: Mapping[str, torch.Tensor], mark: str) -> UnitPlan:
        """See `Plan`."""
        own_by_site = by_site(self.anatomy, weights)
        for key in own_by_site.keys() - self.sites.keys():
            raise ValueError(f"{key} is no prunable site")
        changed = {
            key: replace(
                self.sites[key],
                weights={**self.sites[key].weights, **own},
                signature=marked(self.sites[key].signature, mark),
            )
            for key, own in own_by_site.items()
        }
        return replace(self, sites={**self.sites, **changed})

    @cached_property
    def removed(self) -> Mapping[SiteKey, torch.Tensor]:
        """The channels or query heads that leave each site, int64, ascending."""
        return {key: plan.removed for key, plan in self.sites.items()}

    @property
    def reached(self) -> Mapping[SiteKey, float]:
        """The sparsity of every site: the reachable one nearest to what was asked."""
        return {key: plan.width.sparsity for key, plan in self.sites.items()}

    @property
    def removed_parameters(self) -> int:
        """See `Plan`."""
        return sum(plan.site.parameters - plan.width.parameters for plan in self.sites.values())

    @property
    def added_parameters(self) -> int:
        """See `Plan`; counted as the recipe has it, so before the repair is carried out as well."""
        if self.recipe.repair.kind is not RepairKind.BIAS:
            return 0
        return self.anatomy.hidden_size * sum(
            plan.signature != DENSE and not plan.site.has_output_bias
            for plan in self.sites.values()
        )

    @property
    def targeted_parameters(self) -> int:
        """See `Plan`."""
        return self.anatomy.prunable_parameters

    @property
    def removed_weights(self) -> int:
        """See `Plan`."""
        return sum(
            plan.site.matrix_weights(plan.site.counts) - plan.site.matrix_weights(plan.kept_counts)
            for plan in self.sites.values()
        )

    def cost(self, dense_bytes: int, tokens: int) -> Cost:
        """See `Plan`."""
        dense = dense_cost(self.anatomy, dense_bytes, tokens)
        head_positions = 0
        for plan in self.sites.values():
            counts = plan.kept_counts
            gone = plan.site.counts.get(Part.QUERY_HEAD, 0) - counts.get(Part.QUERY_HEAD, 0)
            head_positions += gone * self.anatomy.head_dim * tokens
        return Cost(
            parameters=self.parameters,
            bytes=dense.bytes
            - (self.removed_parameters - self.added_parameters) * self.anatomy.element_size,
            operations=dense.operations - 2 * self.removed_weights - 2 * head_positions,
        )


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
            have or that cannot be pruned, an estimator that cannot follow its pattern, settings
            that the estimator has not, or a repair that does not go with the pattern.
    """
    if recipe.fingerprint != fingerprint:
        raise PrunescopeError(
            f"The recipe is for another model ({recipe.model}, weights {recipe.fingerprint}); the "
            f"loaded weights are {fingerprint}. Load that model, or make a recipe for this "
            "one."
        )
    able(recipe.scoring.estimator, recipe.pattern).settings(dict(recipe.scoring.params))
    _check_repair(recipe)
    prunable = prunable_sites(anatomy, recipe.pattern)
    reasons = {refusal.key: refusal.reason for refusal in anatomy.refusals}
    for key, sparsity in recipe.sparsity:
        if key in prunable:
            continue
        if key not in reasons:
            raise PrunescopeError(
                f"The recipe names site {key}, but the model has {anatomy.layers} layers, counted "
                "from 0."
            )
        if sparsity > 0:
            raise PrunescopeError(f"Site {key} cannot be pruned: {reasons[key]}.")


def _check_repair(recipe: Recipe) -> None:
    repair = recipe.repair
    if recipe.pattern.kind is PatternKind.STRUCTURED or not repair:
        return
    if repair.kind is RepairKind.BIAS:
        raise PrunescopeError(
            f"Repair by a bias stands in for whole units, and the pattern is '{recipe.pattern}'. "
            "Choose ridge, or no repair."
        )
    plain = replace(repair, prefix=Repair().prefix)
    if repair != plain:
        raise PrunescopeError(
            f"Under the pattern '{recipe.pattern}' a repair follows the choice of weights layer by "
            f"layer, so it has no prefix of its own: write '{plain}', and set the estimator's."
        )


def prunable_sites(anatomy: Anatomy, pattern: Pattern) -> frozenset[SiteKey]:
    """Return the sites that a pattern can prune: single weights may leave where no unit can."""
    if pattern.kind is PatternKind.STRUCTURED:
        return frozenset(anatomy.by_key)
    return frozenset(linear.key for linear in anatomy.linears)


def make_plan(recipe: Recipe, scores: ImportanceMap, anatomy: Anatomy) -> UnitPlan:
    """Resolve a recipe against an importance map; the model is not looked at.

    Raises:
        PrunescopeError: as `check_recipe`.
    """
    check_recipe(recipe, scores.fingerprint, anatomy)
    asked = dict(recipe.sparsity)
    return UnitPlan(
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


def marked(signature: str, mark: str) -> str:
    """Return the signature of what was made of a site's choice in a way that `mark` identifies."""
    return hashlib.sha256(f"{signature} {mark}".encode()).hexdigest()


def by_site(
    anatomy: Anatomy, weights: Mapping[str, torch.Tensor]
) -> dict[SiteKey, dict[str, torch.Tensor]]:
    """Return tensors of the layers' matrices by the site they belong to.

    Raises:
        ValueError: if one is no matrix of a layer.
    """
    keys = {linear.tensor: linear.key for linear in anatomy.linears}
    found: dict[SiteKey, dict[str, torch.Tensor]] = {}
    for tensor, value in weights.items():
        if tensor not in keys:
            raise ValueError(f"{tensor} is no matrix of a layer")
        found.setdefault(keys[tensor], {})[tensor] = value
    return found
