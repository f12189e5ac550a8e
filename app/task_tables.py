"""Tables of the tasks that a run was asked: plain values in, data frames out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from app.task_figures import Pair, Right

METRICS = {"acc": "by likelihood (acc)", "acc_norm": "by likelihood per character (acc_norm)"}
"""How an answer is chosen, by what lm-eval calls it."""

Tasks = Mapping[str, Mapping[str, Any]]
"""What ``evaluate`` reports of tasks, by their names."""


def metrics_of(tasks: Tasks) -> list[str]:
    """Return the metrics that any of the tasks has, the usual one first."""
    found = {metric for task in tasks.values() for metric in task["dense"]}
    return sorted(found, key=lambda metric: (metric != "acc", metric))


def pairs(tasks: Tasks, metric: str) -> list[Pair]:
    """Return what is drawn of each task by one metric; a task that has not this one shows acc.

    The title then says so.
    """
    return [
        _pair(task, metric if metric in task["dense"] else "acc", metric) for task in tasks.values()
    ]


def asked_table(tasks: Tasks) -> pd.DataFrame:
    """Return one row per task and metric; shares in 0 to 1, differences in percentage points.

    The first column marks what was calibrated on, and is not there where nothing was.
    """
    rows = [_row(task, metric) for task in tasks.values() for metric in metrics_of({"": task})]
    table = pd.DataFrame(rows)
    return table if table[""].any() else table.drop(columns="")


def _pair(task: Mapping[str, Any], drawn: str, wanted: str) -> Pair:
    dense, pruned = (_right(task[side].get(drawn, {})) for side in ("dense", "pruned"))
    title = task["title"] if drawn == wanted else f"{task['title']} ({drawn})"
    return Pair(title, dense, pruned, task["chance"])


def _right(interval: Mapping[str, float | None]) -> Right:
    return Right(interval.get("value"), interval.get("low"), interval.get("high"))


def _row(task: Mapping[str, Any], metric: str) -> dict[str, object]:
    delta = task["delta"][metric]
    row = {
        "task": task["title"],
        "metric": metric,
        "dense": task["dense"][metric].get("value"),
        "pruned": task["pruned"][metric].get("value"),
        "difference": _points(delta.get("value")),
        "from": _points(delta.get("low")),
        "to": _points(delta.get("high")),
        "beyond noise": "yes" if delta.get("beyond_noise") is True else "no",
        "items": _items(task),
        "scorer": task["scorer"],
        "rows from": str(task.get("source", "")),
    }
    return {"": "⚠" if task.get("leaked") is True else "", **row}


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _items(task: Mapping[str, Any]) -> str:
    """Return which items were asked: ``100 of 1,838, seed 0``, ``the first 20 of 500``."""
    items, of, seed = task["items"], task["of"], task.get("sample")
    if items == of:
        return f"all {of:,}"
    return f"the first {items:,} of {of:,}" if seed is None else f"{items:,} of {of:,}, seed {seed}"
