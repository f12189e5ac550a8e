"""Jobs: what a session sees of its work, and what the queue does with the work of several."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pruning_core import jobs
from pruning_core.errors import PrunescopeError
from pruning_core.jobs import AGAIN, Job, JobService, State
from pruning_core.progress import Cancelled, Enough, Progress, Tick

PATIENCE = 5.0  # seconds until a test that hangs gives up


class Gate:
    """Work that says when it has begun and goes on when it is let."""

    def __init__(self, result: object = None) -> None:
        self.result = result
        self.begun = threading.Event()
        self.let = threading.Event()
        self.runs = 0

    def __call__(self, tick: Tick, publish: Callable[[object], None]) -> object:
        self.runs += 1
        self.begun.set()
        assert self.let.wait(PATIENCE)
        tick("passing", 1, 1)
        return self.result

    def await_begin(self) -> None:
        assert self.begun.wait(PATIENCE)


class Learner:
    """Work that gets better step by step, each when it is let, and returns the steps it made."""

    def __init__(self, *stages: str, knows_enough: bool = True) -> None:
        self.stages = stages or ("learning",)
        self.knows_enough = knows_enough
        self.turns: queue.Queue[None] = queue.Queue()
        self.steps: queue.Queue[tuple[str, int]] = queue.Queue()

    def __call__(self, tick: Tick, publish: Callable[[object], None]) -> list[int]:
        return [self.stage(stage, tick) for stage in self.stages]

    def stage(self, stage: str, tick: Tick) -> int:
        for done in range(4):
            try:
                tick(stage, done, 4)
            except Enough:
                if self.knows_enough:
                    return done
                raise
            self.steps.put((stage, done))
            self.turns.get(timeout=PATIENCE)
        return 4

    def reach(self, stage: str, done: int) -> None:
        """Let it go on until it is at work on a step."""
        while self.steps.get(timeout=PATIENCE) != (stage, done):
            self.turns.put(None)

    def finish(self) -> None:
        for _ in range(20):
            self.turns.put(None)


@pytest.fixture
def service() -> Iterator[JobService]:
    service = JobService(max_queued=8, max_finished=10)
    yield service
    service.shutdown()


@pytest.fixture
def gate(service: JobService) -> Iterator[Gate]:
    """The worker, held by a running job of somebody else."""
    gate = Gate()
    service.submit("holder", "hold", "Hold the worker", gate)
    gate.await_begin()
    yield gate
    gate.let.set()


def returning(value: object) -> jobs.Work[object]:
    return lambda tick, publish: value


def raising(error: BaseException) -> jobs.Work[object]:
    def work(tick: Tick, publish: Callable[[object], None]) -> object:
        raise error

    return work


def end(job: Job[Any]) -> State:
    assert job.wait(PATIENCE), f"{job.title} is still {job.state}"
    return job.state


# One job


def test_from_start_to_result(service: JobService) -> None:
    halfway, go_on = threading.Event(), threading.Event()

    def work(tick: Tick, publish: Callable[[object], None]) -> str:
        tick("scoring", 1, 4, "layer 0")
        publish([21.5])
        halfway.set()
        assert go_on.wait(PATIENCE)
        tick("scoring", 4, 4)
        publish([21.5, 21.6])
        return "map"

    before = time.time()
    job = service.submit("ann", "score", "Score the layers", work)
    assert halfway.wait(PATIENCE)
    assert (job.state, job.finished, job.result) == (State.RUNNING, False, None)
    assert job.progress == Progress("scoring", 1, 4, "layer 0")
    assert job.partial == [21.5]
    assert not job.wait(0)
    go_on.set()
    assert end(job) is State.DONE
    assert (job.finished, job.result, job.error) == (True, "map", None)
    assert job.progress == Progress("scoring", 4, 4)
    assert job.partial == [21.5, 21.6]
    assert job.started is not None
    assert job.ended is not None
    assert before <= job.created <= job.started <= job.ended <= time.time()
    assert job.elapsed == job.ended - job.started


def test_a_waiting_job_has_no_times_yet(service: JobService, gate: Gate) -> None:
    job = service.submit("ann", "score", "Wait", returning(1))
    assert (job.state, job.started, job.elapsed, job.remaining) == (State.QUEUED, None, 0.0, None)
    assert job.progress == Progress()


def test_remaining_follows_the_pace_of_the_stage(
    service: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(jobs.time, "time", lambda: clock[0])
    seen: list[float | None] = []

    def work(tick: Tick, publish: Callable[[object], None]) -> None:
        def at(now: float, stage: str, done: int, total: int, note: str = "") -> None:
            clock[0] = now
            tick(stage, done, total, note)
            seen.append(job.remaining)

        assert known.wait(PATIENCE)
        at(1100, "loading", 0, 0)
        at(1200, "loading", 1, 0)  # of an unknown number
        at(1300, "loading", 2, 3)  # a slow stage, which must not spoil the next forecast
        at(1301, "scoring", 3, 10)
        at(1303, "scoring", 4, 10)
        at(1304, "scoring", 4, 10, "the same step")
        at(1309, "scoring", 5, 10)
        at(1310, "scoring", 0, 10)  # the stage again
        at(1311, "scoring", 1, 10)

    known = threading.Event()
    job: Job[None] = service.submit("ann", "score", "Score", work)
    known.set()
    assert end(job) is State.DONE
    assert seen == [None, None, 100.0, None, 12.0, 11.0, 20.0, None, 9.0]
    assert job.remaining is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PrunescopeError("Sparsity 2 is too much."), "Sparsity 2 is too much."),
        (ValueError("secret"), "Something went wrong inside Prunescope (reference {id}); "),
        (SystemExit(2), "Something went wrong inside Prunescope (reference {id}); "),
        (MemoryError(), "The memory ran out (reference {id}). Try "),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "The memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "The memory ran out"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "The memory ran out"),
        (RuntimeError("Expected a MemoryError"), "Something went wrong inside Prunescope"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_are_told_in_a_sentence(
    service: JobService, caplog: pytest.LogCaptureFixture, error: BaseException, sentence: str
) -> None:
    job = service.submit("ann", "score", "Score", raising(error))
    assert end(job) is State.FAILED
    assert job.result is None
    assert job.error is not None
    assert job.error.startswith(sentence.format(id=job.error_id))
    assert "secret" not in job.error
    if isinstance(error, PrunescopeError):
        assert job.error_id is None
        assert not caplog.records
    else:
        (record,) = caplog.records
        assert job.error_id
        assert job.error_id in record.getMessage()
        assert record.exc_info
        assert record.exc_info[1] is error
    # The worker has survived.
    assert end(service.submit("ann", "score", "Again", returning(1))) is State.DONE


class Model:
    """Something big."""


@pytest.mark.parametrize("how", ["done", "failed", "cancelled", "cancelled while queued"])
def test_a_finished_job_keeps_nothing_of_its_work_alive(service: JobService, how: str) -> None:
    model = Model()
    dead = weakref.ref(model)
    hold = Gate()

    def make(model: Model) -> jobs.Work[str]:
        def work(tick: Tick, publish: Callable[[object], None]) -> str:
            hold(tick, publish)
            if how == "failed":
                raise PrunescopeError(f"{type(model).__name__} is broken.")
            return "done"

        return work

    first = Gate()
    service.submit("bob", "score", "In front", first)
    job = service.submit("ann", "score", "Score", make(model), key="k")
    del model
    if how == "cancelled while queued":
        job.cancel()
    first.let.set()
    if how != "cancelled while queued":
        hold.await_begin()
    if how == "cancelled":
        job.cancel()
    hold.let.set()
    assert end(job) is State(how.split()[0])
    gc.collect()
    assert dead() is None


def test_a_tick_that_outlives_its_job_changes_nothing(service: JobService) -> None:
    leaked: list[Any] = []
    job = service.submit("ann", "score", "Score", lambda *both: leaked.extend(both))
    end(job)
    tick, publish = leaked
    tick("scoring", 1, 2)
    publish("late")
    assert (job.progress, job.partial) == (Progress(), None)


# Cancelling


def test_cancel_while_queued(service: JobService, gate: Gate) -> None:
    work = Gate()
    job = service.submit("ann", "score", "Score", work)
    job.cancel()
    assert end(job) is State.CANCELLED
    assert service.position(job) is None
    gate.let.set()
    assert end(service.submit("ann", "score", "Next", returning(1))) is State.DONE
    assert work.runs == 0


def test_cancel_while_running_waits_for_the_work_to_clean_up(service: JobService) -> None:
    begun, go_on, cleaning, cleaned = (threading.Event() for _ in range(4))

    def work(tick: Tick, publish: Callable[[object], None]) -> None:
        publish("so far")
        begun.set()
        assert go_on.wait(PATIENCE)
        try:
            tick("scoring", 1, 2)
        except Cancelled:
            cleaning.set()
            assert cleaned.wait(PATIENCE)
            raise

    job = service.submit("ann", "score", "Score", work)
    assert begun.wait(PATIENCE)
    assert not job.cancelling
    job.cancel()
    job.cancel()
    go_on.set()
    assert cleaning.wait(PATIENCE)
    assert (job.state, job.cancelling) == (State.RUNNING, True)
    cleaned.set()
    assert end(job) is State.CANCELLED
    assert (job.cancelling, job.error, job.partial) == (False, None, "so far")
    assert job.progress == Progress()


def test_work_that_never_ticks_again_is_cancelled_all_the_same(service: JobService) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(tick: Tick, publish: Callable[[object], None]) -> str:
        begun.set()
        assert go_on.wait(PATIENCE)
        return "too late"

    job = service.submit("ann", "score", "Score", work)
    assert begun.wait(PATIENCE)
    job.cancel()
    go_on.set()
    assert end(job) is State.CANCELLED
    assert job.result is None


def test_cancel_after_the_end_changes_nothing(service: JobService) -> None:
    job = service.submit("ann", "score", "Score", returning("map"))
    end(job)
    job.cancel()
    assert (job.state, job.result) == (State.DONE, "map")


def test_cancel_owner_leaves_the_others(service: JobService) -> None:
    running = Gate()
    mine = service.submit("ann", "load", "Load", running)
    running.await_begin()
    queued = service.submit("ann", "score", "Score", returning(1))
    others = service.submit("bob", "score", "Score", returning(2))
    service.cancel_owner("ann")
    running.let.set()
    assert [end(job) for job in (mine, queued, others)] == ["cancelled", "cancelled", "done"]


def test_shutdown_cancels_all_and_takes_no_more() -> None:
    service = JobService()
    running = Gate()
    first = service.submit("ann", "load", "Load", running)
    running.await_begin()
    second = service.submit("bob", "load", "Load", returning(1))
    service.shutdown(wait=False)
    running.let.set()
    assert (end(first), end(second)) == (State.CANCELLED, State.CANCELLED)
    service.shutdown()
    assert not service._thread.is_alive()
    with pytest.raises(PrunescopeError, match="shutting down"):
        service.submit("ann", "load", "Load", returning(1))


# Keeping what there is


def learn(service: JobService, work: Learner, owner: str = "ann", key: object = None) -> Job[Any]:
    return service.submit(owner, "score", "Learn", work, key=key, can_stop_early={"learning"})


def test_enough_ends_a_stage_with_what_there_is(service: JobService) -> None:
    work = Learner()
    job = learn(service, work)
    work.reach("learning", 2)
    assert (job.can_keep, job.keeping) == (True, False)
    job.enough()
    job.enough()
    assert (job.keeping, job.cancelling, job.state) == (True, False, State.RUNNING)
    work.finish()
    assert end(job) is State.DONE
    assert job.result == [3]
    assert (job.can_keep, job.keeping) == (False, False)
    job.enough()


def test_there_is_nothing_to_keep_before_the_first_step(service: JobService, gate: Gate) -> None:
    work = Learner()
    job = learn(service, work)
    job.enough()
    gate.let.set()
    work.reach("learning", 0)
    assert not job.can_keep
    job.enough()
    work.finish()
    assert end(job) is State.DONE
    assert job.result == [4]


def test_enough_harms_no_stage_that_does_not_know_it(service: JobService) -> None:
    work = Learner("reading", "learning")
    job = learn(service, work)
    work.reach("reading", 2)
    assert not job.can_keep
    job.enough()
    work.finish()
    assert end(job) is State.DONE
    assert job.result == [4, 4]


def test_a_request_is_forgotten_with_its_stage(service: JobService) -> None:
    work = Learner("learning", "learning")
    job = learn(service, work)
    work.reach("learning", 1)
    job.enough()
    work.turns.put(None)
    work.reach("learning", 0)  # the second time
    assert not job.keeping
    work.finish()
    assert end(job) is State.DONE
    assert job.result == [2, 4]


def test_work_that_breaks_off_at_enough_is_cancelled(service: JobService) -> None:
    work = Learner(knows_enough=False)
    job = learn(service, work)
    work.reach("learning", 1)
    job.enough()
    work.finish()
    assert end(job) is State.CANCELLED
    assert (job.result, job.error) == (None, None)


def test_cancelling_goes_before_keeping(service: JobService) -> None:
    work = Learner()
    job = learn(service, work)
    work.reach("learning", 1)
    job.enough()
    job.cancel()
    assert not job.can_keep
    work.finish()
    assert end(job) is State.CANCELLED


@pytest.mark.parametrize("other", ["asks too", "leaves", "goes on"])
def test_a_shared_run_ends_early_once_all_have_enough(service: JobService, other: str) -> None:
    work = Learner()
    ann, bob = (learn(service, work, owner, key=1) for owner in ("ann", "bob"))
    work.reach("learning", 1)
    ann.enough()
    assert (ann.keeping, bob.keeping) == (True, False)
    work.turns.put(None)
    work.reach("learning", 2)
    if other == "asks too":
        bob.enough()
    if other == "leaves":
        bob.cancel()
    work.finish()
    assert end(ann) is State.DONE
    assert ann.result == ([4] if other == "goes on" else [3])
    assert end(bob) is (State.CANCELLED if other == "leaves" else State.DONE)
    assert bob.result == (None if other == "leaves" else ann.result)


def test_nobody_joins_a_run_that_ends_early(service: JobService) -> None:
    short, whole = Learner(), Learner()
    ann = learn(service, short, key=1)
    short.reach("learning", 1)
    ann.enough()
    bob = learn(service, whole, "bob", key=1)
    short.finish()
    whole.finish()
    assert (end(ann), end(bob)) == (State.DONE, State.DONE)
    assert (ann.result, bob.result) == ([2], [4])


# The queue


def test_first_come_first_served(service: JobService, gate: Gate) -> None:
    order: list[int] = []

    def noting(number: int) -> jobs.Work[None]:
        return lambda tick, publish: order.append(number)

    queued = [service.submit(f"owner {i}", "score", "Score", noting(i)) for i in range(5)]
    assert [service.position(job) for job in queued] == [1, 2, 3, 4, 5]
    (holding,) = service.jobs("holder")
    assert service.position(holding) == 0
    gate.let.set()
    assert [end(job) for job in queued] == [State.DONE] * 5
    assert order == [0, 1, 2, 3, 4]
    assert service.position(queued[0]) is None


def test_work_in_pieces_lets_others_go_first(service: JobService) -> None:
    order: list[str] = []
    pieces = [Gate(AGAIN), Gate(AGAIN), Gate("whole")]
    turns = iter(pieces)

    def patient(tick: Tick, publish: Callable[[object], None]) -> object:
        order.append("piece")
        tick("piecing", len(order), 9)
        publish(len(order))
        return next(turns)(tick, publish)

    def quick(tick: Tick, publish: Callable[[object], None]) -> None:
        order.append("quick")

    slow = service.submit("a", "slow", "Slow", patient)
    pieces[0].await_begin()
    first = service.submit("b", "quick", "Quick", quick)
    pieces[0].let.set()
    pieces[1].await_begin()
    assert first.finished
    assert order == ["piece", "quick", "piece"]
    assert (slow.state, slow.partial) == (State.RUNNING, 3)
    began = slow.started
    pieces[1].let.set()
    pieces[2].let.set()
    assert slow.wait(PATIENCE)
    assert (slow.state, slow.result, slow.started) == (State.DONE, "whole", began)


def test_work_in_pieces_is_cancelled_between_two_of_them(service: JobService) -> None:
    piece, between = Gate(AGAIN), Gate()
    slow = service.submit("a", "slow", "Slow", piece)
    piece.await_begin()
    service.submit("b", "between", "Between", between)
    piece.let.set()
    between.await_begin()
    assert service.position(slow) == 1
    slow.cancel()
    assert slow.state is State.CANCELLED
    between.let.set()
    assert service.submit("c", "next", "Next", lambda tick, publish: 1).wait(PATIENCE)
    assert piece.runs == 1


def test_a_session_sees_only_its_own_jobs(service: JobService) -> None:
    job = service.submit("ann", "score", "Score", returning(1))
    assert service.get(job.id, "ann") is job
    assert service.get(job.id, "bob") is None
    assert service.get("no such id", "ann") is None
    other = service.submit("ann", "load", "Load", returning(2))
    assert service.jobs("ann") == [job, other]
    assert service.jobs("bob") == []


def test_old_finished_jobs_are_forgotten_but_no_live_one(service: JobService, gate: Gate) -> None:
    (holding,) = service.jobs("holder")
    cancelled = []
    for i in range(12):
        job = service.submit("ann", f"kind {i}", "Score", returning(i))
        job.cancel()
        cancelled.append(job)
    assert service.jobs("ann") == cancelled[2:]
    assert service.get(cancelled[1].id, "ann") is None
    assert service.get(holding.id, "holder") is holding


def test_a_full_queue_refuses_but_still_replaces(service: JobService, gate: Gate) -> None:
    queued = [service.submit(f"owner {i}", "score", "Score", returning(i)) for i in range(8)]
    with pytest.raises(PrunescopeError, match="The queue is full: 8 jobs are waiting"):
        service.submit("late", "score", "Score", returning(8))
    newer = service.submit("owner 3", "score", "Score", returning("newer"))
    assert end(queued[3]) is State.CANCELLED
    assert service.position(newer) == 4, "the new one takes the old one's place"
    gate.let.set()
    assert end(newer) is State.DONE
    assert newer.result == "newer"


def test_only_the_latest_queued_job_of_an_owner_and_kind_stays(
    service: JobService, gate: Gate
) -> None:
    works = [Gate(i) for i in range(4)]
    for work in works:
        work.let.set()
    other_kind = service.submit("ann", "load", "Load", returning(1))
    other_owner = service.submit("bob", "measure", "Measure", returning(1))
    mine = [service.submit("ann", "measure", "Measure", work) for work in works]
    assert [end(job) for job in mine[:3]] == [State.CANCELLED] * 3
    gate.let.set()
    assert [end(job) for job in (mine[3], other_kind, other_owner)] == [State.DONE] * 3
    assert mine[3].result == 3
    assert [work.runs for work in works] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("kind", "owner", "supersede", "expected"),
    [
        ("measure", "ann", True, State.CANCELLED),
        ("measure", "ann", False, State.DONE),
        ("generate", "ann", True, State.DONE),
        ("measure", "bob", True, State.DONE),
    ],
)
def test_supersede_stops_the_running_job_of_the_same_owner_and_kind(
    service: JobService, kind: str, owner: str, supersede: bool, expected: State
) -> None:
    work = Gate()
    running = service.submit("ann", "measure", "Measure", work)
    work.await_begin()
    newer = service.submit(owner, kind, "Measure", returning("newer"), supersede=supersede)
    work.let.set()
    assert end(running) is expected
    assert end(newer) is State.DONE
    assert newer.result == "newer"


# Twins


@pytest.mark.parametrize("when", ["queued", "running"])
def test_equal_keys_share_one_run(service: JobService, when: str) -> None:
    first, work, second = Gate(), Gate("map"), Gate("never")
    service.submit("eve", "load", "In front", first)
    first.await_begin()
    ann = service.submit("ann", "score", "Ann's", work, key=("model", 7))
    if when == "running":
        first.let.set()
        work.await_begin()
    bob = service.submit("bob", "score", "Bob's", second, key=("model", 7))
    assert bob is not ann
    assert bob.id != ann.id
    assert service.position(bob) == service.position(ann) == (1 if when == "queued" else 0)
    assert (bob.state, bob.started) == (ann.state, ann.started)
    first.let.set()
    work.let.set()
    assert (end(ann), end(bob)) == (State.DONE, State.DONE)
    assert (ann.result, bob.result) == ("map", "map")
    assert bob.progress == ann.progress == Progress("passing", 1, 1)
    assert (work.runs, second.runs) == (1, 0)
    assert service.get(ann.id, "bob") is None


def test_a_late_twin_sees_what_has_been_done_so_far(service: JobService) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work(tick: Tick, publish: Callable[[object], None]) -> None:
        tick("measuring", 3, 9)
        publish("so far")
        begun.set()
        assert go_on.wait(PATIENCE)
        publish("more")

    service.submit("ann", "measure", "Measure", work, key=1)
    assert begun.wait(PATIENCE)
    bob: Job[None] = service.submit("bob", "measure", "Measure", work, key=1)
    assert (bob.progress, bob.partial) == (Progress("measuring", 3, 9), "so far")
    go_on.set()
    end(bob)
    assert bob.partial == "more"


@pytest.mark.parametrize("when", ["queued", "running"])
@pytest.mark.parametrize("both", [False, True], ids=["one leaves", "both leave"])
def test_a_shared_run_goes_on_while_somebody_wants_it(
    service: JobService, when: str, both: bool
) -> None:
    first, work = Gate(), Gate("map")
    service.submit("eve", "load", "In front", first)
    first.await_begin()
    ann = service.submit("ann", "score", "Ann's", work, key=1)
    bob = service.submit("bob", "score", "Bob's", work, key=1)
    if when == "running":
        first.let.set()
        work.await_begin()
    ann.cancel()
    assert end(ann) is State.CANCELLED
    if both:
        bob.cancel()
    first.let.set()
    work.let.set()
    assert end(bob) is (State.CANCELLED if both else State.DONE)
    assert bob.result == (None if both else "map")
    assert ann.result is None
    last = service.submit("eve", "load", "Behind", returning(1))
    assert end(last) is State.DONE
    assert work.runs == (0 if both and when == "queued" else 1)


def test_nobody_joins_a_run_that_is_being_stopped(service: JobService) -> None:
    stopped, fresh = Gate("old"), Gate("new")
    ann = service.submit("ann", "score", "Ann's", stopped, key=1)
    stopped.await_begin()
    ann.cancel()
    bob = service.submit("bob", "score", "Bob's", fresh, key=1)
    stopped.let.set()
    fresh.let.set()
    assert (end(ann), end(bob)) == (State.CANCELLED, State.DONE)
    assert bob.result == "new"


def test_superseding_by_the_same_request_keeps_the_run(service: JobService) -> None:
    work, again = Gate("map"), Gate("never")
    older = service.submit("ann", "measure", "Measure", work, key=1)
    work.await_begin()
    newer = service.submit("ann", "measure", "Measure", again, key=1, supersede=True)
    assert end(older) is State.CANCELLED
    work.let.set()
    assert end(newer) is State.DONE
    assert newer.result == "map"
    assert again.runs == 0


@pytest.mark.parametrize(
    ("kind", "key"), [("score", 2), ("measure", 1), ("score", None)], ids=["key", "kind", "no key"]
)
def test_unequal_requests_share_nothing(
    service: JobService, gate: Gate, kind: str, key: int | None
) -> None:
    ann = service.submit("ann", "score", "Ann's", returning("a"), key=key and 1)
    bob = service.submit("bob", kind, "Bob's", returning("b"), key=key)
    gate.let.set()
    assert (end(ann), end(bob)) == (State.DONE, State.DONE)
    assert (ann.result, bob.result) == ("a", "b")


def test_no_cache_of_finished_runs(service: JobService) -> None:
    work = Gate()
    work.let.set()
    end(service.submit("ann", "score", "Score", work, key=1))
    end(service.submit("bob", "score", "Score", work, key=1))
    assert work.runs == 2


# All at once


def test_many_sessions_at_once() -> None:
    """Every job ends, results are never mixed up, and at no time do two works run."""
    service = JobService(max_queued=1000, max_finished=1000)
    busy = threading.Lock()
    overlaps: list[int] = []
    submitted: list[tuple[int, Job[int]]] = []

    def make(number: int) -> jobs.Work[int]:
        def work(tick: Tick, publish: Callable[[object], None]) -> int:
            if not busy.acquire(blocking=False):
                overlaps.append(number)
                return -1
            try:
                tick("counting", 1, 2)
                publish(number)
                tick("counting", 2, 2)
                return number
            finally:
                busy.release()

        return work

    def session(index: int) -> None:
        start.wait(PATIENCE)
        for i in range(40):
            number = i % 5 if i % 2 else 1000 * index + i
            key = number if i % 2 else None
            owner, kind, latest = f"session {index}", f"kind {i % 4}", i % 3 == 0
            job = service.submit(owner, kind, "Count", make(number), key=key, supersede=latest)
            submitted.append((number, job))
            if i % 7 == 0:
                job.cancel()

    start = threading.Barrier(16)
    threads = [threading.Thread(target=session, args=(index,)) for index in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    began = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert len(submitted) == 16 * 40
    states = {end(job) for _, job in submitted}
    service.shutdown()
    assert time.monotonic() - began < 2
    assert states == {State.DONE, State.CANCELLED}
    assert not overlaps
    for number, job in submitted:
        assert job.result == (number if job.state is State.DONE else None)
    assert service._queue == []
    assert service._running is None
