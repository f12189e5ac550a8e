"""Tables of saved runs: core objects in, data frames out, in the manner of `app.tables`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC

import pandas as pd

from app.words import lane_name
from pruning_core.history import Branch, SavedRun
from pruning_core.recipe import Recipe, SiteKey

Table = pd.DataFrame

_DEEPEST = 8
"""Indents at most: further in, the names would leave their column."""


def tree_table(
    branches: Sequence[Branch], best: Collection[str], current: str | None
) -> pd.DataFrame:
    """Return one row per run, in drawing order.

    Args:
        branches: the tree.
        best: ids of the runs on a frontier.
        current: id of the run that is worked from.
    """
    return pd.DataFrame(
        [
            {
                "": _marks(branch.run, best, current),
                "run": _indented(branch),
                "from": branch.parent.label if branch.parent else "",
                "sparsity": branch.run.sparsity,
                "parameters": branch.run.parameters,
                "perplexity": _finite(branch.run.perplexity),
                "over dense": _finite(over_dense(branch.run)),
                "estimator": branch.run.recipe.scoring.estimator,
                "when": branch.run.created.astimezone(UTC),
                "what leaves": str(branch.run.recipe.pattern),
                "measured by": _measured_by(branch.run),
            }
            for branch in branches
        ]
    )


def over_dense(run: SavedRun) -> float:
    """Return by which share a run's perplexity exceeds the dense model's."""
    dense = run.dense_perplexity
    return run.perplexity / dense - 1 if 0 < dense < math.inf else math.nan


def site_differences(first: Recipe, second: Recipe) -> pd.DataFrame:
    """Return one row per site whose sparsity differs, in layer order."""
    one, other = dict(first.sparsity), dict(second.sparsity)
    keys = sorted({*one, *other})
    return pd.DataFrame(
        [_site_row(key, one.get(key, 0.0), other.get(key, 0.0)) for key in keys],
        columns=["layer", "site", "first", "second", "difference"],
    ).query("difference != 0")


def other_differences(first: Recipe, second: Recipe) -> pd.DataFrame:
    """Return one row per thing but sparsity in which two recipes differ."""
    one, other = _decided(first), _decided(second)
    return pd.DataFrame(
        [(name, one[name], other[name]) for name in one if one[name] != other[name]],
        columns=["what", "first", "second"],
    )


def _decided(recipe: Recipe) -> dict[str, str]:
    """Return what a recipe decides besides sparsity, in words."""
    calibration = recipe.scoring.calibration
    settings = ", ".join(f"{name} = {value}" for name, value in recipe.scoring.params)
    return {
        "estimator": recipe.scoring.estimator,
        "its settings": settings or "defaults",
        "calibration": f"{calibration.windows} windows of {calibration.length} from "
        f"{calibration.corpus}, seed {calibration.seed}",
        "what leaves": str(recipe.pattern),
        "repair": str(recipe.repair),
        "locked": ", ".join(str(site) for site in sorted(recipe.locks)) or "nothing",
    }


def _site_row(key: SiteKey, one: float, other: float) -> dict[str, object]:
    return {
        "layer": key.layer,
        "site": lane_name(key.kind),
        "first": one,
        "second": other,
        "difference": other - one,
    }


def _marks(run: SavedRun, best: Collection[str], current: str | None) -> str:
    marks = ("▶", run.id == current), ("★", run.id in best), ("⚠", run.leaked)
    return " ".join(mark for mark, holds in marks if holds)


def _indented(branch: Branch) -> str:
    if branch.parent is None:
        return branch.run.label
    return "\u2003" * min(branch.forks, _DEEPEST) + "└ " + branch.run.label


def _measured_by(run: SavedRun) -> str:
    where = run.conditions
    limit = "" if where.limit is None else f", {where.limit} windows"
    return f"{where.protocol}{limit}, {where.dtype} on {where.device}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
