from __future__ import annotations

from dataclasses import replace

import pytest

from app.run_tables import other_differences, over_dense, site_differences, tree_table
from pruning_core.history import tree
from pruning_core.recipe import Scoring, SiteKey, SiteKind
from tests.history.run_values import recipe, run, run_id


def test_a_row_tells_where_a_run_stands() -> None:
    runs = [run(1), run(2, (1,), perplexity=None), run(3, (1,), leaked=True), run(4, (1, 3))]
    table = tree_table(tree(runs), {run_id(1)}, run_id(4))
    assert list(table["run"]) == ["run 1", "\u2003└ run 2", "\u2003└ run 3", "\u2003└ run 4"]
    assert list(table["from"]) == ["", "run 1", "run 1", "run 3"]
    assert list(table[""]) == ["★", "", "⚠", "▶"]
    assert list(table["perplexity"].isna()) == [False, True, False, False]
    assert table["over dense"][0] == pytest.approx(0.25)
    assert table["measured by"][0] == "probe, 8 windows, float32 on cpu"


def test_a_deep_tree_stays_in_its_column() -> None:
    runs = []
    for depth in range(20):
        line = tuple(range(depth))
        runs += [run(depth, line), run(100 + depth, line)]
    table = tree_table(tree(runs), (), None)
    assert max(name.count("\u2003") for name in table["run"]) == 8


def test_an_overflow_is_over_dense_without_bound() -> None:
    assert over_dense(run(1, perplexity=None)) == float("inf")


def test_sites_that_differ_are_listed_in_layer_order() -> None:
    first = recipe(0.2)
    second = first.with_sparsity({SiteKey(3, SiteKind.MLP): 0.5, SiteKey(1, SiteKind.ATTENTION): 0})
    table = site_differences(first, second)
    assert list(table["layer"]) == [1, 3]
    assert list(table["site"]) == ["Attention", "MLP"]
    assert list(table["difference"]) == pytest.approx([-0.2, 0.3])
    assert site_differences(first, first).empty
    dense = replace(first, sparsity=())
    assert site_differences(dense, dense).empty
    assert len(site_differences(dense, first)) == 8


def test_whatever_else_differs_is_listed() -> None:
    first = recipe()
    second = replace(
        first,
        scoring=Scoring("magnitude", (("norm", "l1"),)),
        locks=frozenset({SiteKey(2, SiteKind.MLP)}),
    )
    table = other_differences(first, second).set_index("what")
    assert list(table.index) == ["estimator", "its settings", "locked"]
    assert list(table.loc["its settings"]) == ["defaults", "norm = l1"]
    assert list(table.loc["locked"]) == ["nothing", "2.mlp"]
    assert other_differences(first, first).empty
