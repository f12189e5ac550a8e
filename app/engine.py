"""What all browser tabs share: one model on the bench, and the queue of work on it.

One process, one device, one model. Every touch of the model happens on the single worker thread of
the job service, so tabs wait for each other instead of mixing their results: a job applies its own
plan, measures, and hands its numbers to the tab that asked. Results that several tabs may ask for
(importance maps, dense numbers) are kept here, under everything they depend on.

torch and transformers are imported inside the jobs, so that the first page paints at once.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from app.recent import Recent
from app.results import Answers, Measured, OnBench, Side
from pruning_core.errors import PrunescopeError
from pruning_core.jobs import Job, JobService
from pruning_core.progress import Tick, silent
from pruning_core.recipe import Calibration, PatternKind, Recipe, Scoring

if TYPE_CHECKING:
    import torch

    from pruning_core.calibration import Split, Text
    from pruning_core.evaluation.generation import Generated
    from pruning_core.evaluation.live import LiveEvaluator
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.importance.evidence import Evidence
    from pruning_core.importance.map import ImportanceMap
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.plan import Plan
    from pruning_core.planning.thinning import SiteMask, WeightPlan
    from pruning_core.surgery.workbench import Workbench

Publish = Callable[[object], None]

KEPT_MAPS = 24
KEPT_EVIDENCE = 3
KEPT_TEXTS = 6
KEPT_MASKS = 2
"""How many recipes of single weights are kept, each as large as the layers of the model."""


class _Probe(NamedTuple):
    """What a protocol measures on: the evaluator, one window to time, and the text of all."""

    evaluator: LiveEvaluator
    window: torch.Tensor
    text: Text


class _Bench:
    """The model and what has been worked out about it; lives and dies with the model."""

    def __init__(self, loaded: LoadedModel) -> None:
        from pruning_core.surgery.workbench import Workbench

        self.loaded = loaded
        self.bench: Workbench = Workbench(loaded.model)
        self.maps: Recent[Scoring, ImportanceMap] = Recent(KEPT_MAPS)
        self.evidence: Recent[Calibration, Evidence] = Recent(KEPT_EVIDENCE)
        self.closeups: Recent[tuple[Calibration, str], torch.Tensor] = Recent(1)
        self.outliers: Recent[Calibration, torch.Tensor] = Recent(4)
        self.masks: Recent[str, SiteMask] = Recent(KEPT_MASKS * len(self.bench.anatomy.linears))
        self.thinned: Recent[Recipe, WeightPlan] = Recent(KEPT_MASKS)
        self.probes: Recent[Protocol, _Probe] = Recent(1)
        self.dense: Recent[Protocol, Side] = Recent(8)
        self.dense_answers: Recent[tuple[str, int], Generated] = Recent(32)
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


class Engine:
    """The process-wide half of the app. Methods return at once; the work is in the job."""

    def __init__(self) -> None:
        self.jobs = JobService()
        self._current: _Bench | None = None
        self._texts: Recent[tuple[str, Split], Text] = Recent(KEPT_TEXTS)

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
            self._current = _Bench(read(prepared, tick))
            return self._current.seen

        key = (ref, device, dtype, trust_remote_code)
        return self.jobs.submit(owner, "load", f"Loading {ref}", work, key=key)

    def load_first(self, owner: str) -> Job[OnBench]:
        """Put the demo on the bench, unless something is there when it is this job's turn."""

        def work(tick: Tick, _publish: Publish) -> OnBench:
            if self._current is None:
                tick("starting the engine", 0, 1)
                from pruning_core.model.loading import load

                self._current = _Bench(load("demo", tick=tick))
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

    def score(self, owner: str, fingerprint: str, scorings: tuple[Scoring, ...]) -> Job[None]:
        """Make importance maps; those of one calibration share one backward pass."""

        def work(tick: Tick, publish: Publish) -> None:
            from pruning_core.importance.scoring import score

            current = self._on_bench(fingerprint)
            with current.bench.applied(None):
                for scoring in scorings:
                    if current.maps.get(scoring) is None:
                        evidence = self._evidence(current, scoring.calibration, tick)
                        current.maps[scoring] = score(scoring, evidence, fingerprint)
                    publish(scoring)

        names = ", ".join(scoring.estimator for scoring in scorings)
        key = (fingerprint, scorings)
        return self.jobs.submit(owner, "score", f"Scoring {names}", work, key=key)

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
                evidence = self._evidence(current, calibration, tick)
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
                windows = self._evidence(current, calibration, tick).windows
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
        return _resolve(current, recipe)

    def measure(
        self, owner: str, recipe: Recipe, protocol: Protocol, *, allow_leak: bool
    ) -> Job[Measured]:
        """Prune and measure; the newest request of a tab replaces its older ones.

        Publishes the quality first and returns the speed with it.
        """

        def work(tick: Tick, publish: Publish) -> Measured:
            from pruning_core.evaluation.speed import prefill_speed
            from pruning_core.pipeline import guard_recipes
            from pruning_core.planning.plan import dense_cost

            current = self._on_bench(recipe.fingerprint)
            plan = self._demand_plan(current, recipe, tick)
            probe = self._probe(current, protocol, tick)
            leaked = guard_recipes(
                [recipe], probe.text, allow=allow_leak, tick=tick, read=self._read_text
            )
            dense = current.dense.get(protocol)
            if dense is None:
                dense = Side(
                    probe.evaluator.measure(None, tick),
                    dense_cost(plan.anatomy, current.bench.dense_bytes, protocol.window),
                    prefill_speed(current.loaded.model, probe.window, tick),
                )
                current.dense[protocol] = dense
            quality = probe.evaluator.measure(plan, tick)
            cost = plan.cost(current.bench.dense_bytes, protocol.window)
            side = Side(quality, cost, None)
            measured = Measured(
                current.seen.id, recipe, protocol, leaked, plan.sparsity, dense, side
            )
            publish(measured)
            if not plan.removed_parameters:
                return replace(measured, pruned=replace(side, speed=dense.speed))
            with current.bench.applied(plan):
                speed = prefill_speed(current.loaded.model, probe.window, tick)
            return replace(measured, pruned=replace(side, speed=speed))

        current = self._current
        key = (recipe, protocol, allow_leak, current and current.seen.id)
        return self.jobs.submit(owner, "measure", "Measuring", work, key=key, supersede=True)

    def write(self, owner: str, recipe: Recipe, prompt: str, tokens: int) -> Job[Answers]:
        """Let the dense and the pruned model continue one prompt."""

        def work(tick: Tick, publish: Publish) -> Answers:
            from pruning_core.evaluation.generation import generate

            current = self._on_bench(recipe.fingerprint)
            plan = self._demand_plan(current, recipe, tick)
            model, tokenizer = current.loaded.model, current.loaded.tokenizer
            dense = current.dense_answers.get((prompt, tokens))
            if dense is None:
                with current.bench.applied(None):
                    dense = generate(
                        model, tokenizer, prompt, tokens=tokens, tick=tick, note="dense"
                    )
                current.dense_answers[prompt, tokens] = dense
            publish(Answers(recipe, prompt, dense, None))
            with current.bench.applied(plan):
                pruned = generate(model, tokenizer, prompt, tokens=tokens, tick=tick, note="pruned")
            return Answers(recipe, prompt, dense, pruned)

        return self.jobs.submit(owner, "write", "Writing", work, supersede=True)

    def _clear(self) -> None:
        """Let the model on the bench leave memory, an accelerator's too."""
        import torch

        self._current = None
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()

    def _on_bench(self, fingerprint: str) -> _Bench:
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

    def _demand_plan(self, current: _Bench, recipe: Recipe, tick: Tick) -> Plan:
        """Return a recipe's plan; single weights are chosen here, which takes a while."""
        from pruning_core.planning.thinning import thin

        plan = _resolve(current, recipe)
        if plan is not None:
            return plan
        if recipe.pattern.kind is PatternKind.STRUCTURED:
            raise PrunescopeError(
                "The importance map of this recipe is gone; score it again on the Tune page."
            )
        evidence = self._evidence(current, recipe.scoring.calibration, tick)
        with current.bench.applied(None):
            thinned = thin(
                recipe,
                current.seen.fingerprint,
                current.loaded.model,
                current.bench.anatomy,
                lambda: evidence.windows,
                known=current.masks,
                tick=tick,
            )
        current.thinned[recipe] = thinned
        return thinned

    def _evidence(self, current: _Bench, calibration: Calibration, tick: Tick) -> Evidence:
        from pruning_core.importance.evidence import evidence_for

        evidence = current.evidence.get(calibration)
        if evidence is None:
            evidence = evidence_for(
                current.loaded.model,
                current.loaded.tokenizer,
                current.bench.anatomy,
                calibration,
            )
            current.evidence[calibration] = evidence
        evidence.tick = tick
        return evidence

    def _probe(self, current: _Bench, protocol: Protocol, tick: Tick) -> _Probe:
        from pruning_core.calibration import Split, measured_part, measurement_windows
        from pruning_core.evaluation.live import LiveEvaluator

        known = current.probes.get(protocol)
        if known is None:
            tokenizer = current.loaded.tokenizer
            text = self._read_text(protocol.corpus, Split.MEASUREMENT, tick)
            windows = measurement_windows(
                text,
                tokenizer,
                length=protocol.window,
                limit=protocol.limit,
                bos=protocol.bos,
            )
            known = _Probe(
                LiveEvaluator(current.bench, windows),
                windows[0],
                measured_part(text, windows, tokenizer),
            )
            current.probes[protocol] = known
        return known

    def _read_text(self, name: str, split: Split, tick: Tick = silent) -> Text:
        """Read a corpus once; a file of the user's each time, for it may have been edited."""
        from pruning_core.calibration import FILE_PREFIX, load_text

        text = self._texts.get((name, split))
        if text is None:
            text = load_text(name, split, tick)
            if not name.startswith(FILE_PREFIX):
                self._texts[name, split] = text
        return text


def _resolve(current: _Bench, recipe: Recipe) -> Plan | None:
    from pruning_core.planning.plan import make_plan

    if recipe.pattern.kind is not PatternKind.STRUCTURED:
        return current.thinned.get(recipe)
    scores = current.maps.get(recipe.scoring)
    return None if scores is None else make_plan(recipe, scores, current.seen.anatomy)


ENGINE = Engine()
"""The one engine of this process."""
