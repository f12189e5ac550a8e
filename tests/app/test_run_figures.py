from __future__ import annotations

import math

import plotly.graph_objects as go
import pytest

from app import palette
from app.run_figures import Point, Span, over_dense, quality_by_size, sparsities

DENSE = Point("", "dense", 100, 20.0)
A, B = Point("a", "first", 90, 22.0), Point("b", "second", 60, 40.0)
WORSE = Point("c", "worse", 95, 30.0, zeros=True)
FLATTERS = Point("d", "flatters", 80, 21.0, leaked=True)


def chart(*points: Point) -> go.Figure:
    return quality_by_size(points, [B, A], DENSE)


def test_the_line_goes_along_the_frontier_to_the_dense_model() -> None:
    line = chart(A, B, WORSE).data[0]
    assert list(line.x) == [60, 90, 100]
    assert list(line.y) == [40, 22, 20]
    assert line.mode == "lines"


def test_the_line_does_not_climb_to_a_dense_model_that_is_beaten() -> None:
    line = quality_by_size([A], [Point("x", "better", 90, 19.0)], DENSE).data[0]
    assert list(line.x) == [90]
    assert list(quality_by_size([FLATTERS], [], DENSE).data[0].x) == []


def test_the_runs_are_the_last_trace_and_tell_their_ids() -> None:
    runs = chart(A, WORSE, B, FLATTERS).data[-1]
    assert list(runs.customdata) == ["a", "c", "b", "d"]
    assert list(runs.text) == ["first", "worse", "second", "flatters"]
    assert list(runs.marker.symbol) == ["circle", "square", "circle", "x"]
    assert [colour == palette.FUSED for colour in runs.marker.color] == [True, False, True, False]


def test_the_dense_model_is_a_point_of_its_own() -> None:
    dense = chart(A).data[1]
    assert (list(dense.x), list(dense.y), dense.name) == ([100], [20.0], "dense")


def test_what_overflowed_is_not_drawn() -> None:
    figure = chart(A, Point("e", "wrecked", 10, math.inf))
    assert list(figure.data[-1].customdata) == ["a"]
    assert figure.layout.yaxis.type is None


def test_a_wide_range_is_drawn_on_a_logarithmic_scale() -> None:
    assert chart(A, Point("e", "bad", 10, 4000.0)).layout.yaxis.type == "log"


def test_two_recipes_stand_side_by_side_in_both_lanes() -> None:
    figure = sparsities(("one", "two"), ([0.1, 0.2], [0.3, 0.4]), ([0.5, 0.6], [0.7, 0.8]))
    assert [list(bar.y) for bar in figure.data] == [
        *([0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]),
    ]
    assert [bar.name for bar in figure.data] == ["one", "two", "one", "two"]
    assert [bar.showlegend for bar in figure.data] == [True, True, False, False]
    assert {bar.marker.pattern.shape for bar in figure.data} == {None, "/"}
    assert [list(bar.x) for bar in figure.data] == [[0, 1]] * 4
    assert figure.layout.barmode == "group"
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"


def test_intervals_over_dense_lie_about_their_values() -> None:
    spans = [
        Span("one", 1.5, 1.4, 1.7),
        Span("two", 2.0, 0.0, math.inf),
        Span("gone", math.inf, 1, 2),
    ]
    figure = over_dense(spans)
    (trace,) = figure.data
    assert list(trace.x) == [1.5, 2.0]
    assert list(trace.error_x.array) == pytest.approx([0.2, 0.0])
    assert list(trace.error_x.arrayminus) == pytest.approx([0.1, 0.0])
    assert list(figure.layout.yaxis.ticktext) == ["one", "two"]
    assert figure.layout.xaxis.type is None
    assert over_dense([Span("wrecked", 90.0, 80.0, 99.0)]).layout.xaxis.type == "log"
