from __future__ import annotations

from typing import Any

import pytest

from app.task_figures import Right
from app.task_tables import asked_table, metrics_of, pairs
from tests.history.run_values import task


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


@pytest.fixture
def tasks() -> dict[str, dict[str, Any]]:
    """Two tasks: one with both metrics, one with acc alone."""
    both = task(0.4, dense=0.5) | {"title": "Both", "sample": 7, "of": 1838, "leaked": True}
    both["dense"]["acc_norm"], both["pruned"]["acc_norm"] = interval(0.6), interval(0.55)
    both["delta"]["acc_norm"] = interval(-0.05) | {"beyond_noise": False}
    return {"both": both, "one": task(0.5, dense=0.3, items=20) | {"title": "One"}}


def test_the_usual_metric_comes_first(tasks: dict[str, Any]) -> None:
    assert metrics_of(tasks) == ["acc", "acc_norm"]
    assert metrics_of({"one": tasks["one"]}) == ["acc"]


def test_pairs_are_drawn_by_the_metric_that_is_chosen(tasks: dict[str, Any]) -> None:
    both, one = pairs(tasks, "acc_norm")
    assert both.title == "Both"
    assert both.dense == Right(0.6, 0.5, 0.7)
    assert both.pruned.value == 0.55
    assert both.chance == 0.25
    assert one.title == "One (acc)"
    assert one.pruned.value == 0.5
    assert [pair.title for pair in pairs(tasks, "acc")] == ["Both", "One"]


def test_every_metric_of_every_task_is_a_row(tasks: dict[str, Any]) -> None:
    table = asked_table(tasks)
    assert list(table["task"]) == ["Both", "Both", "One"]
    assert list(table["metric"]) == ["acc", "acc_norm", "acc"]
    assert list(table["dense"]) == [0.5, 0.6, 0.3]
    assert list(table["difference"]) == pytest.approx([-10, -5, 20])
    assert list(table["from"]) == pytest.approx([-15, -15, 15])
    assert list(table["to"]) == pytest.approx([-5, 5, 25])
    assert list(table["beyond noise"]) == ["yes", "no", "yes"]
    assert list(table[""]) == ["⚠", "⚠", ""]
    assert set(table["rows from"]) == {"local"}
    assert set(table["scorer"]) == {"fast"}


def test_the_items_say_how_they_were_chosen(tasks: dict[str, Any]) -> None:
    whole = {"whole": task(items=500)}
    assert list(asked_table(tasks)["items"])[1:] == ["100 of 1,838, seed 7", "the first 20 of 500"]
    assert list(asked_table(whole)["items"]) == ["all 500"]


def test_an_unknown_interval_is_a_gap_and_no_finding() -> None:
    alone = task(items=1)
    for side in ("dense", "pruned", "delta"):
        alone[side]["acc"] |= {"low": None, "high": None}
    alone["delta"]["acc"]["beyond_noise"] = False
    table = asked_table({"alone": alone})
    assert table["from"].isna().all()
    assert list(table["beyond noise"]) == ["no"]
    assert pairs({"alone": alone}, "acc")[0].dense == Right(0.5, None, None)


def test_what_a_file_leaves_out_is_empty() -> None:
    bare = task()
    for name in ("source", "sample", "leaked"):
        del bare[name]
    del bare["delta"]["acc"]["beyond_noise"]
    row = asked_table({"bare": bare}).iloc[0]
    assert (row["rows from"], row["beyond noise"]) == ("", "no")


def test_where_nothing_leaked_nothing_is_marked() -> None:
    assert "" not in asked_table({"clean": task()}).columns
