"""From a recipe to the plan that carries it out: chosen, and repaired if it says so."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import ImportanceMap
from pruning_core.model.anatomy import Anatomy
from pruning_core.planning.plan import SitePlan, UnitPlan, make_plan
from pruning_core.planning.repairing import repair_units, walks
from pruning_core.planning.thinning import SiteMask, WeightPlan, thin
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Calibration, Recipe
from pruning_core.repair import RepairKind


@dataclass(frozen=True)
class Resolver:
    """What it takes to resolve recipes for one model.

    Attributes:
        model: dense whenever it is looked at, see `looks`; it is left as it was.
        anatomy: its layers and sites.
        fingerprint: of its weights.
        dense: returns a tensor of the dense model by name.
        evidence: returns what may be looked at on a calibration.
        masks, repairs: sites that were thinned or repaired before, by signature; None keeps none.
    """

    model: PreTrainedModel
    anatomy: Anatomy
    fingerprint: str
    dense: Callable[[str], torch.Tensor]
    evidence: Callable[[Calibration], Evidence]
    masks: MutableMapping[str, SiteMask] | None = None
    repairs: MutableMapping[str, SitePlan] | None = None

    def units(self, recipe: Recipe, scores: ImportanceMap, tick: Tick = silent) -> UnitPlan:
        """Return the plan of a recipe under which units leave.

        Raises:
            PrunescopeError: as `make_plan` and `repair_units`.
            Cancelled: by `tick`.
        """
        return self.repaired(make_plan(recipe, scores, self.anatomy), tick)

    def repaired(self, plan: UnitPlan, tick: Tick = silent) -> UnitPlan:
        """Return a plan with the repair that its recipe names.

        Raises:
            PrunescopeError: as `repair_units`.
            Cancelled: by `tick`.
        """
        recipe = plan.recipe
        return repair_units(
            plan,
            self.model,
            dense=self.dense,
            moments=lambda: self._looking(recipe).moments(
                hessian=recipe.repair.kind is RepairKind.RIDGE
            ),
            windows=lambda: self._looking(recipe).windows,
            known=self.repairs,
            tick=tick,
        )

    def weights(self, recipe: Recipe, tick: Tick = silent) -> WeightPlan:
        """Return the plan of a recipe under which single weights leave.

        Raises:
            PrunescopeError: as `thin`.
            Cancelled: by `tick`.
        """
        own = recipe.repair_calibration != recipe.scoring.calibration
        return thin(
            recipe,
            self.fingerprint,
            self.model,
            self.anatomy,
            lambda: self.evidence(recipe.scoring.calibration).windows,
            repairing=(lambda: self._looking(recipe).windows) if own else None,
            known=self.masks,
            tick=tick,
        )

    def looks(self, plan: UnitPlan) -> bool:
        """Return whether the repair of a plan takes a look at the model, which is dense then."""
        repair = plan.recipe.repair
        if not repair or walks(plan):
            return bool(repair)
        ridge = repair.kind is RepairKind.RIDGE
        return not self._looking(plan.recipe).has_moments(hessian=ridge)

    def _looking(self, recipe: Recipe) -> Evidence:
        return self.evidence(recipe.repair_calibration)
