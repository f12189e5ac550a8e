"""Which runs differ by more than noise, and which cannot be compared at all."""

from __future__ import annotations

import math

import pytest

from pruning_core.evaluation.differences import between, disagreements, over_dense
from pruning_core.history import SavedRun
from tests.history import run_values

EASY = [3.1, 3.3, 3.2, 3.4, 3.1, 3.2]
HARD = [loss + 0.2 for loss in EASY]
MIXED = [loss + step for loss, step in zip(EASY, [0.3, -0.3, 0.2, -0.2, 0.3, -0.3], strict=True)]


def run(number: int, losses: list[float] | None, **changes: object) -> SavedRun:
    return run_values.run(number, losses=losses, **changes)


def test_a_run_is_held_against_dense_window_by_window() -> None:
    found = over_dense(run(1, EASY))
    assert found is not None
    assert found.value == pytest.approx(sum(EASY) / 6 - 3)
    assert found.beyond_noise
    assert over_dense(run(1, None)) is None


def test_two_runs_differ_where_every_window_does() -> None:
    one, other = run(1, EASY), run(2, HARD)
    worse = between(other, one)
    assert worse is not None
    assert worse.value == pytest.approx(0.2)
    # Every window is worse by the same: nothing is left to chance.
    assert worse.low == pytest.approx(worse.high)
    noise = between(run(3, MIXED), one)
    assert noise is not None
    assert not noise.beyond_noise


@pytest.mark.parametrize(
    "change", [{"limit": None}, {"sha256": "b" * 64}, {"device": "cuda:0"}, {"dtype": "bfloat16"}]
)
def test_what_was_measured_otherwise_has_no_difference(change: dict[str, object]) -> None:
    assert between(run(1, EASY), run(2, HARD, **change)) is None


def test_windows_of_other_counts_have_no_difference() -> None:
    assert between(run(1, EASY), run(2, HARD[:3])) is None
    assert between(run(1, EASY), run(2, None)) is None


def test_metrics_that_rank_two_runs_differently_are_told() -> None:
    one = run(1, EASY, tasks={"piqa": run_values.task(0.4)})
    other = run(2, HARD, tasks={"piqa": run_values.task(0.6)})
    for pair in ([one, other], [other, one]):
        (told,) = disagreements(pair)
        assert (told.better_perplexity, told.better_task) == (one, other)
        assert (told.task, told.metric) == ("piqa", "acc")


@pytest.mark.parametrize(
    ("losses", "task"),
    [
        (HARD, run_values.task(0.3)),  # they agree
        (MIXED, run_values.task(0.6)),  # the losses differ by noise
        (HARD, run_values.task(0.45)),  # the answers do
        (HARD, run_values.task(0.6, items=50)),  # other items
    ],
)
def test_agreement_and_noise_are_not(losses: list[float], task: dict[str, object]) -> None:
    one = run(1, EASY, tasks={"piqa": run_values.task(0.4)})
    assert disagreements([one, run(2, losses, tasks={"piqa": task})]) == []


def test_a_task_without_an_interval_is_no_evidence() -> None:
    unsure = run_values.task(0.9)
    unsure["pruned"]["acc"] |= {"low": None, "high": None}
    one = run(1, EASY, tasks={"piqa": run_values.task(0.1)})
    assert disagreements([one, run(2, HARD, tasks={"piqa": unsure})]) == []
    assert math.isinf(run_values.run(3, perplexity=None).perplexity)
