"""What all browser tabs share: one model on the bench, and the queue of work on it.

One process, one device, one model. Every touch of the model happens on the single worker thread of
the job service, so tabs wait for each other instead of mixing their results: a job applies its own
plan, measures, and hands its numbers to the tab that asked. Results that several tabs may ask for
(importance maps, dense numbers) are kept here, under everything they depend on.

torch and transformers are imported inside the jobs, so that the first page paints at once.
"""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pruning_core.errors import PrunescopeError
from pruning_core.jobs import Job, JobService
from pruning_core.progress import Tick
from pruning_core.recipe import Calibration, Recipe, Scoring

if TYPE_CHECKING:
    from pruning_core.evaluation.generation import Generated
    from pruning_core.evaluation.live import LiveEvaluator
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.quality import Quality
    from pruning_core.importance.evidence import Evidence
    from pruning_core.importance.map import ImportanceMap
    from pruning_core.model.anatomy import Anatomy
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.plan import Cost, Plan
    from pruning_core.surgery.workbench import Workbench

Publish = Callable[[object], None]
K = TypeVar("K")
V = TypeVar("V")

KEPT_MAPS = 24
KEPT_EVIDENCE = 3


@dataclass(frozen=True)
class OnBench:
    """The loaded model, as a page sees it."""

    ref: str
    fingerprint: str
    device: str
    dtype: str
    anatomy: Anatomy
    dense_bytes: int
    memory: str
    seconds: float


@dataclass(frozen=True)
class Side:
    """The dense or the pruned model in numbers; `speed` in tokens per second, None until timed."""

    quality: Quality
    cost: Cost
    speed: float | None


@dataclass(frozen=True)
class Measured:
    """A recipe measured beside the dense model, by the same process on the same windows."""

    recipe: Recipe
    protocol: Protocol
    leaked: bool
    sparsity: float
    dense: Side
    pruned: Side


@dataclass(frozen=True)
class Answers:
    """What the dense and the pruned model write after one prompt."""

    recipe: Recipe
    prompt: str
    dense: Generated
    pruned: Generated | None


class _Recent(Generic[K, V]):
    """A small dictionary that forgets what was used longest ago."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            while len(self._items) > self._size:
                self._items.popitem(last=False)


class _Bench:
    """The model and what has been worked out about it; lives and dies with the model."""

    def __init__(self, loaded: LoadedModel) -> None:
        from pruning_core.surgery.workbench import Workbench

        self.loaded = loaded
        self.bench: Workbench = Workbench(loaded.model)
        self.maps: _Recent[Scoring, ImportanceMap] = _Recent(KEPT_MAPS)
        self.evidence: _Recent[Calibration, Evidence] = _Recent(KEPT_EVIDENCE)
        self.evaluators: _Recent[Protocol, tuple[LiveEvaluator, Any]] = _Recent(1)
        self.dense: _Recent[Protocol, Side] = _Recent(8)
        self.dense_answers: _Recent[tuple[str, int], Generated] = _Recent(32)
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

    @property
    def model(self) -> OnBench | None:
        """The model on the bench, if there is one."""
        current = self._current
        return current.seen if current else None

    def load(
        self, owner: str, ref: str, *, device: str, dtype: str, trust_remote_code: bool
    ) -> Job[OnBench]:
        """Put another model on the bench; the one before leaves memory first."""

        def work(tick: Tick, _publish: Publish) -> OnBench:
            from pruning_core.model.reference import ModelRef

            tick("starting the engine", 0, 1)
            from pruning_core.model.loading import load

            # Text that cannot be a model must not cost the one that is on the bench.
            reference = ModelRef.parse(ref)
            self._current = None
            gc.collect()
            loaded = load(
                reference,
                device=device,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                tick=tick,
            )
            self._current = _Bench(loaded)
            return self._current.seen

        key = (ref, device, dtype, trust_remote_code)
        return self.jobs.submit(owner, "load", f"Loading {ref}", work, key=key)

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
                        current.maps.put(scoring, score(scoring, evidence, fingerprint))
                    publish(scoring)

        names = ", ".join(scoring.estimator for scoring in scorings)
        key = (fingerprint, scorings)
        return self.jobs.submit(owner, "score", f"Scoring {names}", work, key=key)

    def plan(self, recipe: Recipe) -> Plan | None:
        """Resolve a recipe at once; None while its importance map has not been made."""
        scores = self.map(recipe.fingerprint, recipe.scoring)
        model = self.model
        if scores is None or model is None:
            return None
        from pruning_core.planning.plan import make_plan

        return make_plan(recipe, scores, model.anatomy)

    def measure(
        self, owner: str, recipe: Recipe, protocol: Protocol, *, allow_leak: bool
    ) -> Job[Measured]:
        """Prune and measure; the newest request of a tab replaces its older ones.

        Publishes the quality first and returns the speed with it.
        """

        def work(tick: Tick, publish: Publish) -> Measured:
            from pruning_core.calibration import Split, load_text
            from pruning_core.evaluation.speed import prefill_speed
            from pruning_core.pipeline import guard_recipes
            from pruning_core.planning.plan import dense_cost

            current = self._on_bench(recipe.fingerprint)
            plan = self.plan(recipe)
            if plan is None:
                raise PrunescopeError(
                    "The importance map of this recipe is gone; score it again on the Importance "
                    "page."
                )
            text = load_text(protocol.corpus, Split.MEASUREMENT, tick)
            leaked = guard_recipes([recipe], text, allow=allow_leak)
            evaluator, window = self._evaluator(current, protocol, tick)
            dense = current.dense.get(protocol)
            if dense is None:
                dense = Side(
                    evaluator.measure(None, tick),
                    dense_cost(plan.anatomy, current.bench.dense_bytes, protocol.window),
                    prefill_speed(current.loaded.model, window),
                )
                current.dense.put(protocol, dense)
            quality = evaluator.measure(plan, tick)
            cost = plan.cost(current.bench.dense_bytes, protocol.window)
            measured = Measured(
                recipe, protocol, leaked, plan.sparsity, dense, Side(quality, cost, None)
            )
            publish(measured)
            tick("timing", 0, 1)
            if not plan.removed_parameters:
                return replace(measured, pruned=Side(quality, cost, dense.speed))
            with current.bench.applied(plan):
                speed = prefill_speed(current.loaded.model, window)
            return replace(measured, pruned=Side(quality, cost, speed))

        key = (recipe, protocol, allow_leak)
        return self.jobs.submit(owner, "measure", "Measuring", work, key=key, supersede=True)

    def write(self, owner: str, recipe: Recipe, prompt: str, tokens: int) -> Job[Answers]:
        """Let the dense and the pruned model continue one prompt."""

        def work(tick: Tick, publish: Publish) -> Answers:
            from pruning_core.evaluation.generation import generate

            current = self._on_bench(recipe.fingerprint)
            plan = self.plan(recipe)
            model, tokenizer = current.loaded.model, current.loaded.tokenizer
            dense = current.dense_answers.get((prompt, tokens))
            if dense is None:
                with current.bench.applied(None):
                    dense = generate(
                        model, tokenizer, prompt, tokens=tokens, tick=tick, note="dense"
                    )
                current.dense_answers.put((prompt, tokens), dense)
            publish(Answers(recipe, prompt, dense, None))
            with current.bench.applied(plan):
                pruned = generate(model, tokenizer, prompt, tokens=tokens, tick=tick, note="pruned")
            return Answers(recipe, prompt, dense, pruned)

        return self.jobs.submit(owner, "write", "Writing", work, supersede=True)

    def _on_bench(self, fingerprint: str) -> _Bench:
        current = self._current
        if current is None or current.seen.fingerprint != fingerprint:
            raise PrunescopeError(
                "The model of this tab is no longer on the bench: another tab has loaded "
                f"{current.seen.ref if current else 'a model that failed'}. Load yours again on "
                "the Model page; your recipe is kept."
            )
        return current

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
            current.evidence.put(calibration, evidence)
        evidence.tick = tick
        return evidence

    def _evaluator(
        self, current: _Bench, protocol: Protocol, tick: Tick
    ) -> tuple[LiveEvaluator, Any]:
        from pruning_core.calibration import Split, load_text, measurement_windows
        from pruning_core.evaluation.live import LiveEvaluator

        known = current.evaluators.get(protocol)
        if known is None:
            windows = measurement_windows(
                load_text(protocol.corpus, Split.MEASUREMENT, tick),
                current.loaded.tokenizer,
                length=protocol.window,
                limit=protocol.limit,
                bos=protocol.bos,
            )
            known = LiveEvaluator(current.bench, windows), windows[0]
            current.evaluators.put(protocol, known)
        return known


ENGINE = Engine()
"""The one engine of this process."""
