from __future__ import annotations

import pytest

from app import palette
from app.task_figures import Pair, Right, accuracies

PAIRS = [
    Pair("PIQA", Right(0.7, 0.62, 0.77), Right(0.6, 0.5, 0.69), 0.5),
    Pair("A task of many, many words", Right(0.4, None, None), Right(None, None, None), 0.25),
]


def test_each_task_has_a_bar_for_either_model_side_by_side() -> None:
    dense, pruned, _ = accuracies(PAIRS).data
    assert (dense.name, list(dense.y)) == ("dense", [0.7, 0.4])
    assert (pruned.name, list(pruned.y)) == ("pruned", [0.6, None])
    for task, (left, right) in enumerate(zip(dense.x, pruned.x, strict=True)):
        assert left + dense.width / 2 == pytest.approx(task) == right - pruned.width / 2


def test_whiskers_end_where_the_intervals_do() -> None:
    dense, pruned, _ = accuracies(PAIRS).data
    for bar, right in ((dense, PAIRS[0].dense), (pruned, PAIRS[0].pruned)):
        assert right.value is not None
        assert right.value + bar.error_y.array[0] == pytest.approx(right.high)
        assert right.value - bar.error_y.arrayminus[0] == pytest.approx(right.low)


def test_what_has_no_interval_has_no_whisker() -> None:
    for bar in accuracies(PAIRS).data[:2]:
        assert (bar.error_y.array[1], bar.error_y.arrayminus[1]) == (None, None)
        assert "without an interval" in bar.customdata[1]


def test_guessing_crosses_both_bars_of_its_own_task() -> None:
    dense, pruned, guessing = accuracies(PAIRS).data
    assert list(guessing.y) == [0.5, 0.5, None, 0.25, 0.25, None]
    for task in range(2):
        left, right, gap = guessing.x[3 * task : 3 * task + 3]
        assert left < dense.x[task] - dense.width / 2
        assert pruned.x[task] + pruned.width / 2 < right < task + 0.5
        assert gap is None


def test_long_titles_are_broken() -> None:
    axis = accuracies(PAIRS).layout.xaxis
    assert list(axis.tickvals) == [0, 1]
    assert list(axis.ticktext) == ["PIQA", "A task of many,<br>many words"]


def test_the_axis_is_the_whole_of_what_can_be_right() -> None:
    assert accuracies(PAIRS).layout.yaxis.range == (0, 1)


def test_one_task_alone_is_no_wider_than_one_of_three() -> None:
    for number in (1, 2, 3, 5):
        low, high = accuracies(PAIRS[:1] * number).layout.xaxis.range
        assert high - low == max(number, 3)
        assert (low + high) / 2 == (number - 1) / 2


def test_the_models_differ_by_more_than_colour_on_both_themes() -> None:
    figure = accuracies(PAIRS)
    dense, pruned, guessing = figure.data
    assert dense.marker.pattern.shape != pruned.marker.pattern.shape
    colours = (dense.marker.color, pruned.marker.color, guessing.line.color)
    assert colours == (palette.FINE, palette.FUSED, palette.CUT)
    for bar in (dense, pruned):
        assert bar.error_y.color == bar.marker.color, "which stays, while the bar is faint"
        assert bar.marker.opacity < 1
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
