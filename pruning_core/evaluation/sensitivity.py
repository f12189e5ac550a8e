"""Gather what predictions are made of: the loss with one site pruned alone, and with all of them.

One measurement a step, so that whoever has something more urgent to measure can do it in between.
First the curves: level by level, then in the middle of the gaps across which the loss rises most
(`planning.curves`). Then practice recipes: random shapes that teach how the damage of many sites
adds up. Whatever else was measured meanwhile counts as practice too.

A site alone is cheap to measure: the forward pass starts at its layer, from the dense states.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

from pruning_core.evaluation.live import LiveEvaluator
from pruning_core.evaluation.quality import Quality
from pruning_core.model.anatomy import Anatomy
from pruning_core.planning.allocation import Place, shaped
from pruning_core.planning.curves import LEVELS, Curves, missing, no_curves, steepest
from pruning_core.planning.plan import Plan
from pruning_core.planning.prediction import Observed, Predictor, fit
from pruning_core.progress import Tick, silent
from pruning_core.recipe import SiteKey, SiteKind

REFINEMENTS = 90
"""Points that are measured where curves are steepest."""

FIRST = 2
"""Levels without which nothing is predicted: a solver would go where curves are not known."""

PRACTICE = 40
"""Recipes to practise on."""

MEASURING_CURVES = "measuring what each site costs"
PRACTISING = "practising on random recipes"


class Sensitivity:
    """What has been measured of one model, under one way to rank its units and on one probe.

    Attributes:
        curves: what each site costs alone.
        observed: recipes that were measured, practice and real ones.
        predictor: what both teach by now; None until the first `FIRST` levels are measured.
    """

    def __init__(
        self,
        evaluator: LiveEvaluator,
        anatomy: Anatomy,
        resolve: Callable[[Mapping[SiteKey, float]], Plan],
        places: Sequence[Place],
        *,
        levels: Sequence[float] = LEVELS,
        refinements: int = REFINEMENTS,
        practice: int = PRACTICE,
        seed: int = 0,
    ) -> None:
        """Begin with nothing measured.

        Args:
            evaluator: measures on the probe.
            resolve: makes a plan of the sparsities of sites; one that is not named is dense.
            places: the sites as allocation sees them.
            levels: the sparsities of every curve.
            refinements: how many points are added where curves are steepest.
            practice: how many random recipes are measured.
            seed: draws them.
        """
        self._evaluator, self._anatomy, self._resolve = evaluator, anatomy, resolve
        self._levels, self._refinements = levels, refinements
        self._refined = 0
        self._practice = random_recipes(places, practice, seed)
        self._practised = 0
        self.curves: Curves | None = None
        self.observed: tuple[Observed, ...] = ()
        self.predictor: Predictor | None = None

    @property
    def done(self) -> int:
        """Measurements that have been made for the curves and in practice."""
        curves = self.curves
        points = 0 if curves is None else sum(len(c.points) for c in curves.sites.values())
        return points + self._practised

    @property
    def left(self) -> int:
        """Measurements that are still to be made."""
        curves = self.curves or no_curves(0.0, self._anatomy.sites)
        points = len(missing(curves, self._anatomy, self._levels))
        return points + self._refinements - self._refined + len(self._practice) - self._practised

    def step(self, tick: Tick = silent) -> bool:
        """Measure one thing more; return whether anything is left to measure.

        Raises:
            Cancelled: by `tick`; what was measured before is kept.
        """
        if self.curves is None:
            dense = loss(self._evaluator.measure(None))
            self.curves = no_curves(dense, self._anatomy.sites)
        todo = missing(self.curves, self._anatomy, self._levels)
        refining = not todo and self._refined < self._refinements
        point = todo[0] if todo else steepest(self.curves, self._anatomy) if refining else None
        tick(PRACTISING if point is None else MEASURING_CURVES, self.done, self.done + self.left)
        if point is not None:
            key, sparsity = point
            increase = self._measure({key: sparsity})
            self.curves = self.curves.with_point(key, sparsity, increase)
            self._refined += refining
        elif refining:  # every gap is closed
            self._refined = self._refinements
        elif self._practised < len(self._practice):
            recipe = self._practice[self._practised]
            self.observe(recipe, self._measure(recipe))
            self._practised += 1
        self._learn()
        return self.left > 0

    def observe(self, sparsity: Mapping[SiteKey, float], increase: float) -> None:
        """Take note of a recipe that was measured, by its sparsities as snapped."""
        seen = Observed(dict(sparsity), increase)
        if seen not in self.observed and math.isfinite(increase):
            self.observed = (*self.observed, seen)
            self._learn()

    def _learn(self) -> None:
        if self.curves is None:
            return
        if not missing(self.curves, self._anatomy, self._levels[:FIRST]):
            self.predictor = fit(self.curves, self.observed)

    def _measure(self, sparsity: Mapping[SiteKey, float]) -> float:
        assert self.curves is not None
        return loss(self._evaluator.measure(self._resolve(sparsity))) - self.curves.dense


def loss(quality: Quality) -> float:
    """Return the mean negative log-likelihood that a perplexity stands for, nats per token."""
    return math.log(quality.perplexity)


def random_recipes(
    places: Sequence[Place],
    count: int,
    seed: int,
    between: tuple[float, float] = (0.1, 0.5),
) -> list[dict[SiteKey, float]]:
    """Draw sparsities of sites, of many shapes: even and ragged, tilted and bowed over the layers.

    Args:
        between: the overall sparsities that are drawn from, evenly.
    """
    draw = random.Random(seed)
    last = max(max(place.key.layer for place in places), 1)
    recipes = []
    for _ in range(count):
        ragged = draw.uniform(0, 0.35)
        tilt, bow = draw.uniform(-0.4, 0.4), draw.uniform(-0.4, 0.4)
        kinds = draw.uniform(-0.25, 0.25)
        shape = {}
        for place in places:
            depth = place.key.layer / last - 0.5
            shape[place.key] = (
                draw.gauss(0, ragged)
                + tilt * depth
                + bow * (2 * abs(depth) - 0.5)
                + (kinds if place.key.kind is SiteKind.ATTENTION else 0.0)
            )
        recipes.append(shaped(places, draw.uniform(*between), shape))
    return recipes
