from __future__ import annotations

import math

import plotly.graph_objects as go
import pytest

from app import recovery_figures

LOSSES = ((1, 4.0), (2, 3.5), (3, 3.25))
PERPLEXITIES = ((0, 60.0), (3, 40.0))


def drawn(**changes: object) -> go.Figure:
    arguments: dict[str, object] = {"steps": 8, "dense": 30.0, "pruned": 60.0} | changes
    return recovery_figures.training(LOSSES, PERPLEXITIES, **arguments)  # type: ignore[arg-type]


def test_both_lines_are_what_was_measured() -> None:
    *_levels, perplexity, loss = drawn().data
    assert [*zip(perplexity.x, perplexity.y, strict=True)] == [*PERPLEXITIES]
    assert [*zip(loss.x, loss.y, strict=True)] == [*LOSSES]
    assert (perplexity.xaxis, loss.xaxis) == ("x", "x2")


def test_the_axis_is_that_of_the_whole_training() -> None:
    layout = drawn().layout
    assert layout.xaxis.range == layout.xaxis2.range == (0, 8)


def test_the_dense_and_the_pruned_model_are_levels_with_their_numbers() -> None:
    figure = drawn(dense=30.123, pruned=61.0)
    dense, pruned, *_lines = figure.data
    assert [(*level.x, *level.y) for level in (dense, pruned)] == [
        (0, 8, 30.123, 30.123),
        (0, 8, 61, 61),
    ]
    notes = figure.layout.annotations
    assert [(note.text, note.y) for note in notes] == [("dense 30.12", 30.123), ("pruned 61", 61)]
    assert dense.line.color != pruned.line.color


def test_a_wrecked_model_is_no_level() -> None:
    assert [trace.name for trace in drawn(pruned=math.inf).data] == [
        "dense",
        "perplexity of the probe",
        "loss of a step",
    ]


@pytest.mark.parametrize(("pruned", "kind"), [(60.0, None), (3000.0, "log")])
def test_what_lies_far_apart_is_drawn_in_decades(pruned: float, kind: str | None) -> None:
    figure = drawn(pruned=pruned)
    assert figure.layout.yaxis.type == kind
    assert figure.layout.yaxis2.type is None
    assert figure.layout.annotations[1].y == (pruned if kind is None else math.log10(pruned))


@pytest.mark.parametrize(
    ("pruned", "first", "last"), [(3000.0, ["10", "20", "50"], "50000"), (3e7, ["10"], "1e+08")]
)
def test_decades_have_plain_numbers(pruned: float, first: list[str], last: str) -> None:
    axis = drawn(pruned=pruned).layout.yaxis
    assert list(axis.ticktext[: len(first)]) == first
    assert axis.ticktext[-1] == last
    assert [f"{value:g}" for value in axis.tickvals] == list(axis.ticktext)


def test_before_the_first_point_there_is_a_picture() -> None:
    figure = recovery_figures.training((), (), steps=5, dense=math.inf, pruned=math.inf)
    assert [len(trace.x) for trace in figure.data] == [0, 0]


def test_it_reads_on_both_themes() -> None:
    layout = drawn().layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)"
