"""What all browser tabs share: one model on the bench, and the queue of work on it.

One process, one device, one model. Every touch of the model happens on the single worker thread of
the job service, so tabs wait for each other instead of mixing their results: a job applies its own
plan, measures, and hands its numbers to the tab that asked. What is worked out about the model is
kept with it, in its `Workplace`.

torch and transformers are imported inside the jobs, so that the first page paints at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.asking import Asked, Questions, ask_next, follow
from app.exports import Candidate, Exports, Order, Written, demand_place_for
from app.recoveries import Recoveries, Trained, Training
from app.results import Answers, Gathered, Measured, OnBench, Sample
from app.texts import Texts
from app.workplace import Workplace, without_shape
from pruning_core.errors import PrunescopeError
from pruning_core.history import History, history_root
from pruning_core.jobs import AGAIN, Job, JobService
from pruning_core.progress import LEARNING_FUSION, Tick
from pruning_core.recipe import Calibration, Recipe, Scoring

if TYPE_CHECKING:
    import torch

    from pruning_core.evaluation.latency import MeasuredLatency
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.sensitivity import Sensitivity
    from pruning_core.evaluation.workload import Workload
    from pruning_core.importance.map import ImportanceMap
    from pruning_core.planning.plan import Plan

Publish = Callable[[object], None]

Made = dict[Scoring, Scoring]
"""For every scoring that was asked for the one that was carried out."""


class Engine:
    """The process-wide half of the app. Methods return at once; the work is in the job."""

    def __init__(self) -> None:
        self.jobs = JobService()
        self.history = History(history_root())
        self._current: Workplace | None = None
        self._texts = Texts()

    @property
    def model(self) -> OnBench | None:
        """The model on the bench, if there is one."""
        current = self._current
        return current.seen if current else None

    def load(
        self, owner: str, ref: str, *, device: str, dtype: str, trust_remote_code: bool
    ) -> Job[OnBench]:
        """Put another model on the bench.

        The one before stays until all is known and fetched that can fail, and then leaves memory
        before the new one enters it.
        """

        def work(tick: Tick, _publish: Publish) -> OnBench:
            tick("starting the engine", 0, 1)
            from pruning_core.model.loading import prepare, read

            before = self._current
            prepared = prepare(
                ref,
                device=device,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                reclaimable=before.seen.dense_bytes if before else 0,
                tick=tick,
            )
            del before
            self._clear()
            self._current = Workplace(read(prepared, tick), self._texts)
            return self._current.seen

        key = (ref, device, dtype, trust_remote_code)
        return self.jobs.submit(owner, "load", f"Loading {ref}", work, key=key)

    def load_first(self, owner: str) -> Job[OnBench]:
        """Put the demo on the bench, unless something is there when it is this job's turn."""

        def work(tick: Tick, _publish: Publish) -> OnBench:
            if self._current is None:
                tick("starting the engine", 0, 1)
                from pruning_core.model.loading import load

                self._current = Workplace(load("demo", tick=tick), self._texts)
            return self._current.seen

        return self.jobs.submit(owner, "load", "Loading demo", work, key="first")

    def check(
        self, owner: str, ref: str, *, device: str, dtype: str, trust_remote_code: bool
    ) -> Job[str]:
        """Say what a model would need in memory, without loading its weights."""

        def work(tick: Tick, _publish: Publish) -> str:
            from pruning_core.model.device import choose_device, choose_dtype
            from pruning_core.model.memory import preflight

            place = choose_device(device)
            return preflight(
                ref,
                place,
                choose_dtype(dtype, place),
                trust_remote_code=trust_remote_code,
                tick=tick,
            ).sentence()

        return self.jobs.submit(owner, "check", f"Checking {ref}", work)

    def map(self, fingerprint: str, scoring: Scoring) -> ImportanceMap | None:
        """Return an importance map that has been made for the model on the bench."""
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            return None
        return current.maps.get(scoring)

    def score(self, owner: str, fingerprint: str, scorings: tuple[Scoring, ...]) -> Job[Made]:
        """Make importance maps; those of one calibration share one backward pass.

        Learning may end early with what has been learned, under a scoring that says so.
        """

        def work(tick: Tick, publish: Publish) -> Made:
            current = self._on_bench(fingerprint)
            made: Made = {}
            for scoring in scorings:
                made[scoring] = current.demand_map(scoring, tick)
                publish(dict(made))
            return made

        names = ", ".join(scoring.estimator for scoring in scorings)
        key = (fingerprint, scorings)
        title, early = f"Scoring {names}", {LEARNING_FUSION}
        return self.jobs.submit(owner, "score", title, work, key=key, can_stop_early=early)

    def closeup(
        self, fingerprint: str, calibration: Calibration, tensor: str
    ) -> torch.Tensor | None:
        """Return the score of every weight of a matrix, if it is the last one looked at."""
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            return None
        return current.closeups.get((calibration, tensor))

    def look_closer(
        self, owner: str, fingerprint: str, calibration: Calibration, tensor: str
    ) -> Job[None]:
        """Score every weight of one matrix."""

        def work(tick: Tick, _publish: Publish) -> None:
            current = self._on_bench(fingerprint)
            with current.bench.applied(None):
                evidence = current.evidence(calibration, tick)
                current.closeups[calibration, tensor] = evidence.closeup(tensor)

        key = (fingerprint, calibration, tensor)
        return self.jobs.submit(owner, "closeup", f"Looking into {tensor}", work, key=key)

    def outliers(self, fingerprint: str, calibration: Calibration) -> torch.Tensor | None:
        """Return how many outliers each layer has, if that has been worked out."""
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            return None
        return current.outliers.get(calibration)

    def count_outliers(self, owner: str, fingerprint: str, calibration: Calibration) -> Job[None]:
        """Work out how many outliers each layer has."""

        def work(tick: Tick, _publish: Publish) -> None:
            from pruning_core.planning.outliers import outlier_shares

            current = self._on_bench(fingerprint)
            with current.bench.applied(None):
                windows = current.evidence(calibration, tick).windows
                current.outliers[calibration] = outlier_shares(
                    current.loaded.model, current.bench.anatomy, windows, tick=tick
                )

        key = (fingerprint, calibration)
        return self.jobs.submit(owner, "outliers", "Counting outliers", work, key=key)

    def plan(self, recipe: Recipe) -> Plan | None:
        """Resolve a recipe at once.

        None while its importance map has not been made or, where single weights leave, while it has
        not been measured.
        """
        current = self._current
        if current is None or current.seen.fingerprint != recipe.fingerprint:
            return None
        return current.plan(recipe)

    def sensitivity(self, recipe: Recipe, protocol: Protocol) -> Sensitivity | None:
        """Return what is known of how the loss answers to pruning, if anything was gathered."""
        current = self._current
        if current is None or current.seen.fingerprint != recipe.fingerprint:
            return None
        return current.sensitivities.get((without_shape(recipe), protocol))

    def gather_sensitivity(self, owner: str, recipe: Recipe, protocol: Protocol) -> Job[None]:
        """Measure what each site costs, and practise; every other job goes first."""

        def work(tick: Tick, publish: Publish) -> Any:
            current = self._on_bench(recipe.fingerprint)
            current.demand_map(recipe.scoring, tick)
            known = current.sensitivity(recipe, protocol, tick)
            more = known.step(tick)
            publish(Gathered(known.done, known.left))
            return AGAIN if more else None

        key = (without_shape(recipe), protocol)
        return self.jobs.submit(owner, "sensitivity", "Learning to predict", work, key=key)

    def latency(
        self, fingerprint: str, workload: Workload, multiple: int
    ) -> MeasuredLatency | None:
        """Return the milliseconds per token of every part of the model, if they were measured."""
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            return None
        return current.latencies.get((workload, multiple))

    def measure_latency(
        self, owner: str, fingerprint: str, workload: Workload, multiple: int
    ) -> Job[None]:
        """Time every shape of site at several widths."""

        def work(tick: Tick, _publish: Publish) -> None:
            from pruning_core.evaluation.latency import measure_latency

            current = self._on_bench(fingerprint)
            current.latencies[workload, multiple] = measure_latency(
                current.bench, workload, multiple=multiple, tick=tick
            )

        key = (fingerprint, workload, multiple)
        return self.jobs.submit(owner, "latency", f"Timing, {workload}", work, key=key)

    def measure(
        self,
        owner: str,
        recipe: Recipe,
        protocol: Protocol,
        *,
        allow_leak: bool,
        parent: str | None = None,
        sample: Sample | None = None,
    ) -> Job[Measured]:
        """Prune, measure and save the run; the newest request of a tab replaces its older ones.

        Publishes the quality first, then the speeds with it, then the answers to a sample.

        Args:
            parent: the id of the saved run whose recipe this one was made from.
            sample: items to ask as well.
        """

        def work(tick: Tick, publish: Publish) -> Measured:
            current = self._on_bench(recipe.fingerprint)
            measured, run = current.measure(recipe, protocol, allow_leak=allow_leak, tick=tick)
            publish(measured)  # on screen before it is on the disk
            measured = self._saved(measured, run, parent)
            publish(measured)
            measured = replace(measured, speeds=current.speeds(recipe, protocol, tick))
            if sample is None:
                return measured
            publish(measured)
            return follow(current, self.history, measured, sample, allow_leak=allow_leak, tick=tick)

        current = self._current
        key = (recipe, protocol, allow_leak, sample, current and current.seen.id)
        return self.jobs.submit(owner, "measure", "Measuring", work, key=key, supersede=True)

    def compare(
        self, owner: str, recipes: tuple[Recipe, ...], protocol: Protocol, *, allow_leak: bool
    ) -> Job[tuple[Measured, ...]]:
        """Score, measure and save several recipes of one model, one after the other."""

        def work(tick: Tick, publish: Publish) -> tuple[Measured, ...]:
            current = self._on_bench(recipes[0].fingerprint)
            measured: tuple[Measured, ...] = ()
            for recipe in recipes:
                current.demand_map(recipe.scoring, tick)
                found = current.measure(recipe, protocol, allow_leak=allow_leak, tick=tick)
                measured += (self._saved(*found, parent=None),)
                publish(measured)
            return measured

        key = (recipes, protocol, allow_leak)
        return self.jobs.submit(owner, "compare", "Comparing", work, key=key)

    def write(self, owner: str, recipe: Recipe, prompt: str, tokens: int) -> Job[Answers]:
        """Let the dense and the pruned model continue one prompt."""

        def work(tick: Tick, publish: Publish) -> Answers:
            from pruning_core.evaluation.generation import generate

            current = self._on_bench(recipe.fingerprint)
            plan = current.demand_plan(recipe, tick)
            model, tokenizer = current.loaded.model, current.loaded.tokenizer
            dense = current.answers.get((prompt, tokens))
            if dense is None:
                with current.bench.applied(None):
                    dense = generate(
                        model, tokenizer, prompt, tokens=tokens, tick=tick, note="dense"
                    )
                current.answers[prompt, tokens] = dense
            publish(Answers(recipe, prompt, dense, None))
            with current.bench.applied(plan):
                pruned = generate(model, tokenizer, prompt, tokens=tokens, tick=tick, note="pruned")
            return Answers(recipe, prompt, dense, pruned)

        return self.jobs.submit(owner, "write", "Writing", work, supersede=True)

    def ask_tasks(self, owner: str, questions: Questions) -> Job[Asked]:
        """Ask the items of tasks and keep the answers with their run; others go between tasks.

        Publishes how far it is. A task that cannot be asked says why and leaves the rest standing.
        """
        asked = Asked(questions)

        def work(tick: Tick, publish: Publish) -> Any:
            nonlocal asked
            publish(asked)
            current = self._on_bench(questions.fingerprint)
            asked = ask_next(current, self.history, asked, tick)
            publish(asked)
            return AGAIN if asked.left else asked

        title = f"Asking {', '.join(questions.tasks)}"
        return self.jobs.submit(owner, "tasks", title, work, key=questions)

    def exports(self, fingerprint: str) -> Exports | None:
        """Return what is known of exports of the model on the bench."""
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            return None
        return current.exports

    def recoveries(self, fingerprint: str) -> Recoveries | None:
        """Return what trainings of the model on the bench came to."""
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            return None
        return current.recoveries

    def recover(self, owner: str, training: Training) -> Job[Trained]:
        """Train what a recipe leaves; it may end early with what has been learned."""
        from pruning_core.recovery.training import RECOVERING

        def work(tick: Tick, publish: Publish) -> Trained:
            current = self._on_bench(training.recipe.fingerprint)
            return current.recover(training, tick, publish)

        title, early = training_of(training.recipe), {RECOVERING}
        return self.jobs.submit(owner, "recover", title, work, key=training, can_stop_early=early)

    def look_at_formats(self, owner: str, candidate: Candidate) -> Job[None]:
        """Find out what each format would do with a candidate; its plan is made if need be."""

        def work(tick: Tick, _publish: Publish) -> None:
            current = self._on_bench(candidate[0].fingerprint)
            current.exports.look(candidate, current.demand_candidate(*candidate, tick)[0])

        return self.jobs.submit(owner, "formats", looking_at(candidate), work, key=candidate)

    def export(self, owner: str, order: Order) -> Job[Written]:
        """Write a pruned model and prove it."""

        def work(tick: Tick, _publish: Publish) -> Written:
            recipe = order.recipe
            current = self._on_bench(recipe.fingerprint)
            demand_place_for(order)  # before weights are chosen, which takes long
            run = self.history.find(recipe.fingerprint, order.run) if order.run else None
            plan, record = current.demand_candidate(*order.candidate, tick)
            return current.exports.write(order, plan, run.values if run else None, record, tick)

        return self.jobs.submit(owner, "export", f"Exporting, {order.format}", work, key=order)

    def _saved(self, measured: Measured, run: dict[str, Any], parent: str | None) -> Measured:
        """Save a run; what cannot be saved is not lost, it only says so."""
        fingerprint = measured.recipe.fingerprint
        try:
            before = None if parent is None else self.history.find(fingerprint, parent)
            saved = self.history.save(run, before, predicted=measured.predicted)
        except PrunescopeError as error:
            return replace(measured, unsaved=str(error))
        return replace(measured, saved=saved.id)

    def _clear(self) -> None:
        """Let the model on the bench leave memory, an accelerator's too."""
        import torch

        self._current = None
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _on_bench(self, fingerprint: str) -> Workplace:
        current = self._current
        if current is None:
            raise PrunescopeError(
                "There is no model on the bench: loading the last one failed or was stopped. Load "
                "one on the Model page; your recipe is kept."
            )
        if current.seen.fingerprint != fingerprint:
            raise PrunescopeError(
                "The model of this tab is no longer on the bench: another tab has loaded "
                f"{current.seen.ref}. Load yours again on the Model page; your recipe is kept."
            )
        return current


def looking_at(candidate: Candidate) -> str:
    """Return the title of the job that looks at the formats for a candidate."""
    recipe, trained = candidate
    return (
        f"Looking at the formats for {recipe.digest}{f', trained {trained[:6]}' if trained else ''}"
    )


def training_of(recipe: Recipe) -> str:
    """Return the title of the job that trains what a recipe leaves."""
    return f"Training what {recipe.digest} leaves"


ENGINE = Engine()
"""The one engine of this process."""
