"""One loaded model and what has been worked out about it; lives and dies with the model.

Everything here touches the model, so it runs on the engine's one worker thread, inside a job. What
several tabs may ask for (importance maps, dense numbers) is kept under everything it depends on.

torch and transformers are imported when they are needed, so that the first page paints at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.asking import Questions
from app.exports import Exports
from app.probes import Probes
from app.recent import Recent
from app.recoveries import Recoveries, Trained, Training
from app.results import Measured, OnBench, Sample, Side
from pruning_core.errors import PrunescopeError
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Calibration, PatternKind, Recipe, Scoring

if TYPE_CHECKING:
    import torch

    from app.texts import Texts
    from pruning_core.evaluation.generation import Generated
    from pruning_core.evaluation.latency import MeasuredLatency
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.quality import Quality
    from pruning_core.evaluation.sensitivity import Sensitivity
    from pruning_core.evaluation.speed import Speeds
    from pruning_core.evaluation.workload import Workload
    from pruning_core.importance.evidence import Evidence
    from pruning_core.importance.map import ImportanceMap
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.plan import Plan, SitePlan, UnitPlan
    from pruning_core.planning.resolving import Resolver
    from pruning_core.planning.thinning import SiteMask, WeightPlan
    from pruning_core.surgery.workbench import Workbench

KEPT_MAPS = 24
KEPT_SENSITIVITIES = 4
KEPT_EVIDENCE = 3
KEPT_MASKS = 2
"""How many recipes of single weights are kept, each as large as the layers of the model."""

KEPT_REPAIRS = 4
"""How many repaired recipes of units are kept; of each one matrix a site."""


class Workplace:
    """A model on the bench.

    Attributes:
        seen: the model as pages see it.
        maps, outliers, closeups: what has been worked out, for pages to look at at any time.
        exports: what formats would do with its plans, and what was written.
        recoveries: what trainings of its plans came to.
        probes: what live numbers are measured on.
    """

    def __init__(self, loaded: LoadedModel, texts: Texts) -> None:
        """Put a loaded model on a workbench.

        Args:
            texts: reads corpora, and outlives the model.
        """
        from pruning_core.surgery.workbench import Workbench

        self.loaded = loaded
        self.bench: Workbench = Workbench(loaded.model)
        self.maps: Recent[Scoring, ImportanceMap] = Recent(KEPT_MAPS)
        self.closeups: Recent[tuple[Calibration, str], torch.Tensor] = Recent(1)
        self.outliers: Recent[Calibration, torch.Tensor] = Recent(4)
        self.answers: Recent[tuple[str, int], Generated] = Recent(32)
        self.sensitivities: Recent[tuple[Recipe, Protocol], Sensitivity] = Recent(
            KEPT_SENSITIVITIES
        )
        self.latencies: Recent[tuple[Workload, int], MeasuredLatency] = Recent(8)
        self.exports = Exports(loaded, self.bench)
        self.recoveries = Recoveries(loaded, self.bench)
        self.probes = Probes(loaded, self.bench, texts)
        self._texts = texts
        self._evidence: Recent[Calibration, Evidence] = Recent(KEPT_EVIDENCE)
        self._masks: Recent[str, SiteMask] = Recent(KEPT_MASKS * 2 * self.bench.anatomy.layers)
        self._repairs: Recent[str, SitePlan] = Recent(KEPT_REPAIRS * len(self.bench.anatomy.sites))
        self._thinned: Recent[Recipe, WeightPlan] = Recent(KEPT_MASKS)
        self._dense: Recent[Protocol, Side] = Recent(8)
        self.seen = OnBench(
            ref=str(loaded.ref),
            fingerprint=loaded.fingerprint,
            device=str(loaded.device),
            dtype=str(loaded.dtype).removeprefix("torch."),
            anatomy=self.bench.anatomy,
            dense_bytes=self.bench.dense_bytes,
            memory=loaded.preflight.sentence(),
            seconds=loaded.seconds,
        )

    def plan(self, recipe: Recipe) -> Plan | None:
        """Resolve a recipe at once, None where that takes work first: a map, or a walk.

        Which units leave and what that saves; a repair is carried out by `demand_plan`.
        """
        from pruning_core.planning.plan import make_plan

        if recipe.pattern.kind is not PatternKind.STRUCTURED:
            return self._thinned.get(recipe)
        scores = self.maps.get(recipe.scoring)
        return None if scores is None else make_plan(recipe, scores, self.seen.anatomy)

    def demand_map(self, scoring: Scoring, tick: Tick) -> Scoring:
        """Make an importance map if it has not been made; return the scoring it is kept under.

        That is another one than was asked for when the tick said that it is enough.
        """
        from pruning_core.importance.scoring import score

        if scoring in self.maps:
            return scoring
        with self.bench.applied(None):
            evidence = self.evidence(scoring.calibration, tick)
            made = score(scoring, evidence, self.seen.fingerprint)
        self.maps[made.scoring] = made
        return made.scoring

    def demand_plan(self, recipe: Recipe, tick: Tick) -> Plan:
        """Return a recipe's plan, repaired; single weights are chosen here, which takes a while.

        Raises:
            PrunescopeError: if the importance map is gone.
        """
        from pruning_core.planning.plan import UnitPlan

        plan = self.plan(recipe)
        resolver = self._resolver(tick)
        if isinstance(plan, UnitPlan):
            return self._repaired(resolver, plan, tick)
        if plan is not None:
            return plan
        if recipe.pattern.kind is PatternKind.STRUCTURED:
            raise PrunescopeError(
                "The importance map of this recipe is gone; score it again on the Tune page."
            )
        with self.bench.applied(None):
            thinned = resolver.weights(recipe, tick)
        self._thinned[recipe] = thinned
        return thinned

    def _repaired(self, resolver: Resolver, plan: UnitPlan, tick: Tick) -> UnitPlan:
        """Return a plan of units, repaired; the model is dense while it is looked at."""
        with self.bench.applied(None) if resolver.looks(plan) else nullcontext():
            return resolver.repaired(plan, tick)

    def _resolver(self, tick: Tick) -> Resolver:
        from pruning_core.planning.resolving import Resolver

        return Resolver(
            self.loaded.model,
            self.bench.anatomy,
            self.seen.fingerprint,
            self.bench.dense,
            lambda calibration: self.evidence(calibration, tick),
            self._masks,
            self._repairs,
        )

    def measure(
        self, recipe: Recipe, protocol: Protocol, *, allow_leak: bool, tick: Tick
    ) -> tuple[Measured, dict[str, Any]]:
        """Measure the quality of a recipe beside the dense model.

        Returns:
            What pages draw, and the run as it is saved.
        """
        from pruning_core.peak import peak_memory
        from pruning_core.pipeline import guard_recipes
        from pruning_core.planning.plan import dense_cost
        from pruning_core.runs import Entry, Run

        plan = self.demand_plan(recipe, tick)
        probe = self.probes.windows(protocol, tick)
        leaked = guard_recipes(
            [recipe], probe.read, allow=allow_leak, tick=tick, read=self._texts.read
        )
        dense = self._dense.get(protocol)
        if dense is None:
            dense = Side(
                probe.evaluator.measure(None, tick),
                dense_cost(plan.anatomy, self.bench.dense_bytes, protocol.window),
            )
            self._dense[protocol] = dense
        predicted = self._predicted(recipe, protocol, plan)
        quality = probe.evaluator.measure(plan, tick)
        cost = plan.cost(self.bench.dense_bytes, protocol.window)
        self._observe(recipe, protocol, plan, quality)
        measured = Measured(
            self.seen.id,
            recipe,
            protocol,
            leaked,
            plan.sparsity,
            dense,
            Side(quality, cost),
            predicted,
        )
        run = Run(
            model=self.seen.ref,
            fingerprint=self.seen.fingerprint,
            device=self.seen.device,
            dtype=self.seen.dtype,
            protocol=protocol,
            text=(probe.text.source, probe.text.sha256),
            leaked=leaked,
            dense_cost=dense.cost,
            dense_quality=dense.quality,
            entries=(Entry(plan.without_tensors(), cost, quality, {}, peak_memory()),),
            seconds={},
        )
        return measured, run.as_dict()

    def recover(self, training: Training, tick: Tick, publish: Callable[[object], None]) -> Trained:
        """Train what a recipe leaves, on its probe; see `Recoveries.train`."""
        from pruning_core.pipeline import guard_recipes

        recipe = training.recipe
        probe = self.probes.windows(training.protocol, tick)
        leaked = guard_recipes(
            [recipe], probe.read, allow=training.allow_leak, tick=tick, read=self._texts.read
        )
        return self.recoveries.train(
            training, probe, leaked, lambda: self.demand_plan(recipe, tick), tick, publish
        )

    def demand_anew(self, recipe: Recipe, tick: Tick) -> Plan:
        """Return the plan of any recipe of this model; its importance map is made if it is gone.

        Raises:
            PrunescopeError: if the recipe can't be carried out.
        """
        from pruning_core.planning.plan import check_recipe

        check_recipe(recipe, self.seen.fingerprint, self.seen.anatomy)
        if recipe.pattern.kind is PatternKind.STRUCTURED:
            self.demand_map(recipe.scoring, tick)
        return self.demand_plan(recipe, tick)

    def ask(self, plan: Plan, task: str, questions: Questions, tick: Tick) -> dict[str, Any]:
        """Ask the dense model, and the one that a plan makes of it, the items of one task.

        What was answered before, here or by ``evaluate``, is not asked again.

        Returns:
            What ``evaluate`` reports of a task.

        Raises:
            PrunescopeError: if its rows are missing or damaged, or the recipe was calibrated on
                them and that is not allowed.
            Cancelled: by `tick`; what is answered by then is kept on the disk.
        """
        from pruning_core.evaluation.measurement import measure_task
        from pruning_core.evaluation.tasks.accuracy import select
        from pruning_core.evaluation.tasks.definitions import task as find
        from pruning_core.pipeline import guard_recipes
        from pruning_core.runs import environment

        tick("reading", 0, 1, task)
        selection = select(find(task), questions.limit, questions.seed)
        leaked = guard_recipes(
            [plan.recipe],
            selection.text,
            allow=questions.allow_leak,
            tick=tick,
            read=self._texts.read,
        )
        identity = {
            "fingerprint": self.seen.fingerprint,
            "device": self.seen.device,
            "dtype": self.seen.dtype,
            "environment": environment(),
        }
        with self.bench.applied(None):
            found = measure_task(
                self.bench,
                self.loaded.tokenizer,
                selection,
                identity,
                plan,
                resume=True,
                tick=tick,
            )
        return found.as_dict() | {"leaked": leaked}

    def follow(
        self, recipe: Recipe, sample: Sample, *, allow_leak: bool, tick: Tick
    ) -> dict[str, Any]:
        """Ask the dense model, and what a recipe makes of it, a few items, as quickly as can be.

        Returns:
            What ``evaluate`` reports of a task.

        Raises:
            PrunescopeError: if the items can't be asked, or the recipe was calibrated on them and
                that is not allowed.
        """
        from pruning_core.evaluation.measurement import TaskMeasurement
        from pruning_core.evaluation.tasks.accuracy import Scorer
        from pruning_core.pipeline import guard_recipes

        live = self.probes.task(sample, tick)
        leaked = guard_recipes(
            [recipe], live.selection.text, allow=allow_leak, tick=tick, read=self._texts.read
        )
        plan = self.demand_plan(recipe, tick)
        dense, pruned = live.measure(None, tick), live.measure(plan, tick)
        found = TaskMeasurement(live.selection, Scorer.FAST, dense, pruned)
        return found.as_dict() | {"leaked": leaked}

    def demand_candidate(
        self, recipe: Recipe, trained: str | None, tick: Tick
    ) -> tuple[Plan, Mapping[str, Any] | None]:
        """Return the plan that is to be exported, and the record of its training if there was one.

        Args:
            recipe: what is pruned.
            trained: identifies what was learned after that, None for the plan as it was cut.
            tick: hears of weights that are chosen.

        Raises:
            PrunescopeError: if the importance map or what was learned is gone.
        """
        plan = self.demand_plan(recipe, tick)
        if trained is None:
            return plan, None
        return self.recoveries.merged(recipe, trained, plan)

    def speeds(self, recipe: Recipe, protocol: Protocol, tick: Tick) -> Speeds:
        """Return how fast the dense and the pruned model read one window, timed in turns."""
        from pruning_core.evaluation.speed import measure_speeds
        from pruning_core.evaluation.workload import Workload
        from pruning_core.model.forward import positions

        length = min(protocol.window, positions(self.loaded.model) or protocol.window)
        plan = self.demand_plan(recipe, tick)
        return measure_speeds(self.bench, plan, Workload(length=length), tick)

    def sensitivity(self, recipe: Recipe, protocol: Protocol, tick: Tick) -> Sensitivity:
        """Return what is known of how the loss answers to pruning, under a recipe's scoring."""
        from pruning_core.evaluation.sensitivity import Sensitivity
        from pruning_core.planning.allocation import unit_places
        from pruning_core.planning.plan import make_plan

        base = without_shape(recipe)
        known = self.sensitivities.get((base, protocol))
        if known is None:
            anatomy, scores = self.bench.anatomy, self.maps[recipe.scoring]
            resolver = self._resolver(silent)
            # A walk for every point would take hours; the first order is the same without.
            quick = replace(base, repair=replace(base.repair, prefix="dense"))
            known = Sensitivity(
                self.probes.windows(protocol, tick).evaluator,
                anatomy,
                lambda sparsity: self._repaired(
                    resolver, make_plan(quick.with_sparsity(sparsity), scores, anatomy), silent
                ),
                unit_places(anatomy),
            )
            self.sensitivities[base, protocol] = known
        return known

    def _predicted(self, recipe: Recipe, protocol: Protocol, plan: Plan) -> float | None:
        """Return the loss predicted for a plan, nats per token, if that can be predicted yet."""
        from pruning_core.planning.plan import UnitPlan

        known = self.sensitivities.get((without_shape(recipe), protocol))
        if known is None or known.predictor is None or not isinstance(plan, UnitPlan):
            return None
        return known.predictor.dense + known.predictor.increase(plan.reached)

    def _observe(self, recipe: Recipe, protocol: Protocol, plan: Plan, quality: Quality) -> None:
        """Let predictions learn from a measurement."""
        from pruning_core.evaluation.sensitivity import loss
        from pruning_core.planning.plan import UnitPlan

        known = self.sensitivities.get((without_shape(recipe), protocol))
        if known is not None and known.curves is not None and isinstance(plan, UnitPlan):
            known.observe(plan.reached, loss(quality) - known.curves.dense)

    def evidence(self, calibration: Calibration, tick: Tick) -> Evidence:
        """Return what estimators may look at on a calibration."""
        from pruning_core.importance.evidence import evidence_for

        evidence = self._evidence.get(calibration)
        if evidence is None:
            evidence = evidence_for(
                self.loaded.model, self.loaded.tokenizer, self.bench.anatomy, calibration
            )
            self._evidence[calibration] = evidence
        evidence.tick = tick
        return evidence


def without_shape(recipe: Recipe) -> Recipe:
    """Return a recipe's way to prune without how much leaves where: one for all of its shapes."""
    return replace(recipe, sparsity=(), locks=frozenset())
