"""Background jobs: one worker, a short queue, progress, partial results, cancel.

Holds `JobService`, which runs work on a single thread in the order of arrival (one model on one
device: two jobs at once would only fight over it), and `Job`, what a session keeps of it.

Assumes that work calls its `Tick` often, because that is where it learns that it should stop, and
that it leaves what it touched unharmed when the tick raises `Cancelled`. Work that can end early
with what it has declares the stages in which its tick may raise `Enough`; no other sees it. Work
that takes long and is in no hurry does a piece of itself and returns `AGAIN`: whatever waits goes
first, then it is called once more. A job keeps its result for as long as it is remembered, so work
that makes a model puts it into a store and returns its key.

Does not cache results, does not kill work that never ticks, knows neither torch nor streamlit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import uuid4

from pruning_core.errors import MEMORY_CURE, PrunescopeError, memory_ran_out
from pruning_core.progress import Cancelled, Enough, Progress, Tick

log = logging.getLogger(__name__)

T = TypeVar("T")
Work: TypeAlias = Callable[[Tick, Callable[[object], None]], T]
"""What a job does: ``work(tick, publish)``; `publish` hands out a partial result."""

AGAIN: Any = object()
"""What work returns that has done a piece of itself and lets others go before the next one."""


class State(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class _Trail:
    """Progress with what a forecast needs: `first` steps done at `since`, the latest at `at`."""

    progress: Progress = field(default_factory=Progress)
    first: int = 0
    since: float = 0.0
    at: float = 0.0

    def follows(self, progress: Progress) -> bool:
        """Whether a step belongs to the present stage, and is not the same stage once more."""
        return progress.stage == self.progress.stage and progress.done >= self.progress.done

    def step(self, progress: Progress, now: float) -> _Trail:
        if not self.follows(progress):
            return _Trail(progress, progress.done, now, now)
        # A new note on the same step says nothing about the pace.
        ahead = progress.done > self.progress.done
        return replace(self, progress=progress, at=now if ahead else self.at)

    def remaining(self, now: float) -> float | None:
        steps = self.progress.done - self.first
        if steps <= 0 or self.progress.total <= 0:
            return None
        ahead = (self.progress.total - self.progress.done) * (self.at - self.since) / steps
        return max(0.0, ahead - (now - self.at))


@dataclass(eq=False, repr=False)
class Job(Generic[T]):
    """One owner's view of work in a `JobService`, which alone writes to it; read from any thread.

    Attributes:
        id: not guessable.
        owner: the session that asked.
        kind: ``"load"``, ``"score"``, ``"measure"``; new work replaces queued work of its kind.
        title: what to call it on screen.
        state: set after everything that belongs to it, so who sees DONE also finds the result.
        partial: the latest partial result, kept after the end; None before the first.
        result: what the work returned; None unless DONE.
        error: a sentence for the user; None unless FAILED.
        error_id: where to look in the log, if the failure is a defect or memory ran out.
        keeping: whether it has been asked for `enough` in the present stage.
        created, started, ended: seconds since the epoch; None where it has not happened. Who joins
            a running twin (see `JobService.submit`) has its start, before their own `created`.
    """

    owner: str
    kind: str
    title: str
    _cancel: Callable[[Job[Any]], None]
    _enough: Callable[[Job[Any]], None]
    _run: _Run | None
    id: str = field(default_factory=lambda: uuid4().hex)
    state: State = State.QUEUED
    partial: object = None
    result: T | None = None
    error: str | None = None
    error_id: str | None = None
    keeping: bool = False
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    _trail: _Trail = field(default_factory=_Trail)
    _end: threading.Event = field(default_factory=threading.Event)

    @property
    def progress(self) -> Progress:
        """The latest snapshot."""
        return self._trail.progress

    @property
    def elapsed(self) -> float:
        """Seconds it has run, or ran; 0 while it waits."""
        if self.started is None:
            return 0.0
        return max(0.0, (self.ended or time.time()) - self.started)

    @property
    def remaining(self) -> float | None:
        """Seconds left of the present stage at its pace so far; None while that is not known."""
        return self._trail.remaining(time.time()) if self.state is State.RUNNING else None

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self.state not in (State.QUEUED, State.RUNNING)

    @property
    def cancelling(self) -> bool:
        """Whether it has been asked to stop and its work has not yet come to its next tick."""
        run = self._run
        return run is not None and run.called_off

    @property
    def can_keep(self) -> bool:
        """Whether its work can end here and keep what it has, and has something to keep."""
        run, progress = self._run, self.progress
        return (
            run is not None
            and not run.called_off
            and progress.stage in run.can_stop_early
            and 0 < progress.done != progress.total
        )

    def enough(self) -> None:
        """Ask it to end the present stage early and keep what there is; see `can_keep`.

        Does nothing where it cannot. A run that others want too goes on until all of them have
        asked; a request is forgotten when the stage ends.
        """
        self._enough(self)

    def cancel(self) -> None:
        """Ask it to stop; does nothing once it has ended.

        Ends at once while queued, or while another owner's job still wants the same run. Otherwise
        it is RUNNING until its work has cleaned up and left, and then CANCELLED even if the work
        came to its end without another tick; FAILED if the cleaning up went wrong.
        """
        self._cancel(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended or `timeout` seconds are over; return whether it has ended."""
        return self._end.wait(timeout)


@dataclass(eq=False)
class _Run:
    """One execution, and the unfinished jobs that want it."""

    work: Work[Any]
    twin_key: tuple[str, Hashable] | None
    can_stop_early: frozenset[str] = frozenset()
    jobs: list[Job[Any]] = field(default_factory=list)
    called_off: bool = False
    trail: _Trail = field(default_factory=_Trail)

    @property
    def enough(self) -> bool:
        """Whether all who want it have asked it to keep what there is."""
        return bool(self.jobs) and all(job.keeping for job in self.jobs)


class _Outcome(NamedTuple):
    state: State
    result: Any = None
    error: str | None = None
    error_id: str | None = None


class JobService:
    """Run jobs one at a time, in the order of arrival, on a daemon thread.

    Args:
        max_queued: how many runs may wait before `submit` refuses.
        max_finished: how many ended jobs `get` and `jobs` still know, of all owners together.
    """

    def __init__(self, *, max_queued: int = 64, max_finished: int = 100) -> None:
        self._max_queued = max_queued
        self._max_finished = max_finished
        self._changed = threading.Condition()  # re-entrant; guards what follows and every job
        self._queue: list[_Run] = []
        self._running: _Run | None = None
        self._jobs: dict[str, Job[Any]] = {}
        self._ended: deque[str] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="prunescope-jobs", daemon=True)
        self._thread.start()

    def submit(
        self,
        owner: str,
        kind: str,
        title: str,
        work: Work[T],
        *,
        key: Hashable | None = None,
        supersede: bool = False,
        can_stop_early: Collection[str] = (),
    ) -> Job[T]:
        """Queue `work` and return its job.

        The latest wins: a queued job of the same owner and kind is cancelled, and the new one takes
        its place in the queue. With `supersede` the owner's running job of that kind is asked to
        cancel too, for live measurements of which only the newest matters.

        Twins share: if a run of the same kind and `key` waits or runs, whoever asked for it, no
        second one starts. Each owner has a job of their own with the same progress and result;
        cancelling one leaves the run to the others, and the last one stops it. So equal keys must
        mean equal work. Nothing is kept for keys that come after the run has ended.

        In the stages named in `can_stop_early` the tick may raise `Enough` (see `Job.enough`): the
        work then ends that stage with what it has.

        Raises:
            PrunescopeError: when the queue is full, or the service has been shut down.
        """
        twin_key = None if key is None else (kind, key)
        with self._changed:
            if self._closed:
                raise PrunescopeError("Prunescope is shutting down and takes no new jobs.")
            rivals = [
                job
                for job in self._jobs.values()
                if (job.owner, job.kind) == (owner, kind)
                and (job.state is State.QUEUED or (supersede and job.state is State.RUNNING))
            ]
            run = self._twin(twin_key) or self._enqueue(
                _Run(work, twin_key, frozenset(can_stop_early)), rivals
            )
            job: Job[T] = Job(owner, kind, title, self._cancel, self._keep, run)
            if run.jobs:
                twin = run.jobs[0]
                job.started, job.partial, job._trail = twin.started, twin.partial, twin._trail
                job.state = twin.state
            run.jobs.append(job)
            self._jobs[job.id] = job
            # Only now, so that a run which the new job shares with a rival has someone left.
            for rival in rivals:
                self._cancel(rival)
            self._changed.notify()
        return job

    def get(self, job_id: str, owner: str) -> Job[Any] | None:
        """Return the job if it is `owner`'s and not forgotten."""
        with self._changed:
            job = self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    def jobs(self, owner: str) -> list[Job[Any]]:
        """Return the jobs of `owner`, oldest first."""
        with self._changed:
            return [job for job in self._jobs.values() if job.owner == owner]

    def position(self, job: Job[Any]) -> int | None:
        """Return 0 for a job that runs, 1 for the next in the queue; None once it has ended."""
        with self._changed:
            if job._run is None:
                return None
            return 0 if job._run is self._running else 1 + self._queue.index(job._run)

    def cancel_owner(self, owner: str) -> None:
        """Cancel whatever `owner` has queued or running."""
        with self._changed:
            for job in self.jobs(owner):
                self._cancel(job)

    def shutdown(self, wait: bool = True) -> None:
        """Cancel every job and end the worker; with `wait`, return when it has ended."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                self._cancel(job)
            self._changed.notify()
        if wait:
            self._thread.join()

    # With the lock held.

    def _twin(self, twin_key: tuple[str, Hashable] | None) -> _Run | None:
        if twin_key is None:
            return None
        runs = [run for run in (self._running, *self._queue) if run and run.twin_key == twin_key]
        return next((run for run in runs if not (run.called_off or run.enough)), None)

    def _enqueue(self, run: _Run, rivals: list[Job[Any]]) -> _Run:
        """Put `run` where a queued rival stands alone, so that dragging does not cost the place."""
        for place, waiting in enumerate(self._queue):
            if len(waiting.jobs) == 1 and waiting.jobs[0] in rivals:
                self._queue.insert(place, run)  # the rival leaves in a moment
                return run
        if len(self._queue) >= self._max_queued:
            raise PrunescopeError(
                f"The queue is full: {len(self._queue)} jobs are waiting. "
                "Try again when some of them have finished, or cancel one of yours."
            )
        self._queue.append(run)
        return run

    def _finish(self, job: Job[Any], outcome: _Outcome) -> None:
        job._run = None  # and with it the work and all that it refers to
        job.result, job.error, job.error_id = outcome.result, outcome.error, outcome.error_id
        job.keeping = False
        job.ended = time.time()
        job.state = outcome.state
        self._ended.append(job.id)
        while len(self._ended) > self._max_finished:
            del self._jobs[self._ended.popleft()]
        job._end.set()

    # Taking the lock.

    def _cancel(self, job: Job[Any]) -> None:
        with self._changed:
            run = job._run
            if run is None:
                return
            if run is self._running and len(run.jobs) == 1:
                run.called_off = True  # its next tick raises
                return
            run.jobs.remove(job)
            if not run.jobs:
                self._queue.remove(run)
            self._finish(job, _Outcome(State.CANCELLED))

    def _keep(self, job: Job[Any]) -> None:
        with self._changed:
            if job.can_keep:
                job.keeping = True  # once all have asked, the next tick raises

    def _serve(self) -> None:
        while (run := self._take()) is not None:
            self._settle(run, self._perform(run))

    def _take(self) -> _Run | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._queue:
                return None
            self._running = run = self._queue.pop(0)
            for job in run.jobs:
                job.started = job.started or time.time()
                job.state = State.RUNNING
            return run

    def _perform(self, run: _Run) -> _Outcome:
        """Do the work; a frame of its own, gone with its references before anyone is told."""

        def tick(stage: str, done: int, total: int, note: str = "") -> None:
            with self._changed:
                if run.called_off:
                    raise Cancelled
                progress = Progress(stage, done, total, note)
                same_stage = run.trail.follows(progress)
                run.trail = run.trail.step(progress, time.time())
                for job in run.jobs:
                    job._trail = run.trail
                    job.keeping = job.keeping and same_stage
                if run.enough:
                    raise Enough

        def publish(partial: object) -> None:
            with self._changed:
                for job in run.jobs:
                    job.partial = partial

        try:
            return _Outcome(State.DONE, run.work(tick, publish))
        except Cancelled:
            return _Outcome(State.CANCELLED)
        except PrunescopeError as error:
            return _Outcome(State.FAILED, error=str(error))
        except BaseException as error:  # a library's sys.exit() must not end the only worker
            return _unexpected(error, run.jobs[0].title)  # the last job of a run stays in it

    def _settle(self, run: _Run, outcome: _Outcome) -> None:
        with self._changed:
            if outcome.result is AGAIN and not (run.called_off or self._closed):
                self._running = None
                self._queue.append(run)
                return
        del run.work  # outside the lock: it may be the last to hold a model
        with self._changed:
            self._running = None
            if run.called_off and outcome.state is State.DONE:
                outcome = _Outcome(State.CANCELLED)
            for job in run.jobs:
                self._finish(job, outcome)
            run.jobs.clear()


def _unexpected(error: BaseException, title: str) -> _Outcome:
    """Log the traceback under a short reference and tell the user what they can use."""
    error_id = uuid4().hex[:6]
    log.error("Job %r failed (reference %s)", title, error_id, exc_info=error)
    sentence = "Something went wrong inside Prunescope (reference {}); the log has the details."
    if memory_ran_out(error):
        sentence = f"The memory ran out (reference {{}}). {MEMORY_CURE}"
    return _Outcome(State.FAILED, error=sentence.format(error_id), error_id=error_id)
