from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import pytest

from app import comparison_figures, palette

NAMES = ("fine", "coarse", "random")
VALUES = np.array([[1, 0.456, -0.2], [0.456, 1, np.nan], [-0.2, np.nan, 1]], np.float32)
PAIRS = [("fine", "coarse"), ("fine", "random")]


def matrix() -> go.Figure:
    return comparison_figures.agreement_matrix(NAMES, VALUES, "Rank correlation")


def by_layer() -> go.Figure:
    values = np.array([[0.5, 0.75], [np.nan, 0.25]], np.float32)
    return comparison_figures.per_layer(PAIRS, [3, 4], values, "Overlap")


def test_every_cell_says_its_number_and_gaps_say_none() -> None:
    (heat,) = matrix().data
    assert [list(row) for row in heat.text] == [
        ["1.00", "0.46", "-0.20"],
        ["0.46", "1.00", ""],
        ["-0.20", "", "1.00"],
    ]
    assert list(heat.x) == list(heat.y) == list(NAMES)


def test_the_diagonal_runs_down() -> None:
    assert matrix().layout.yaxis.autorange == "reversed"


@pytest.mark.parametrize(("figure", "lowest"), [(matrix(), -0.2), (by_layer(), 0)])
def test_the_scale_ends_at_full_agreement_and_shows_discord(
    figure: go.Figure, lowest: float
) -> None:
    (heat,) = figure.data
    assert (heat.zmin, heat.zmax) == (pytest.approx(lowest), 1)
    colours = [colour for _at, colour in palette.IMPORTANCE]
    assert [colour for _at, colour in heat.colorscale] == colours


def test_layers_go_across_and_pairs_down() -> None:
    (heat,) = by_layer().data
    assert list(heat.x) == [3, 4]
    assert list(heat.y) == ["fine with coarse", "fine with random"]
    assert np.array_equal(heat.z, [[0.5, 0.75], [np.nan, 0.25]], equal_nan=True)


def test_numbers_that_are_not_known_are_drawn_as_gaps() -> None:
    none = np.full((1, 2), np.nan, np.float32)
    (heat,) = comparison_figures.per_layer(PAIRS[:1], [0, 1], none, "Overlap").data
    assert (heat.zmin, heat.zmax) == (0, 1)


@pytest.mark.parametrize("figure", [matrix(), by_layer()])
def test_figures_are_transparent_and_titled(figure: go.Figure) -> None:
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.title.text in ("Rank correlation", "Overlap")


def test_more_rows_make_a_higher_figure() -> None:
    assert matrix().layout.height - by_layer().layout.height == 34
