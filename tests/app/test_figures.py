from __future__ import annotations

import json

import numpy as np

from app import figures
from pruning_core.planning.curves import Curve
from pruning_core.recipe import SiteKey, SiteKind


def test_binned_averages_neighbours_and_keeps_short_vectors() -> None:
    assert figures.binned(np.arange(6, dtype=np.float32), 3).tolist() == [0.5, 2.5, 4.5]
    assert figures.binned(np.arange(2, dtype=np.float32), 3).tolist() == [0, 1]


def test_columns_leaves_gaps_below_shorter_layers() -> None:
    stacked = figures.columns([np.ones(3, np.float32), np.ones(2, np.float32)], 8)
    assert stacked.shape == (3, 2)
    assert np.isnan(stacked[2, 1])


def test_levels_are_bytes_on_one_scale_with_the_mean_in_the_middle() -> None:
    rising = np.array([0.1, 0.5, 1.0, 2.0, 10.0], np.float32)
    one, two, none = figures.levels([rising, np.ones(3, np.float32), np.zeros(2, np.float32)], 128)
    assert one.dtype == np.uint8
    assert one.tolist() == sorted(one.tolist())
    assert (one[0], one[-1]) == (0, 255)
    assert {*two.tolist()} == {one[2]} <= {127, 128}
    assert none.tolist() == [0, 0]


def test_levels_have_at_most_so_many_bins() -> None:
    (level,) = figures.levels([np.linspace(1, 2, 1536, dtype=np.float32)], 128)
    assert level.shape == (128,)


def test_sensitivity_is_drawn_as_far_as_it_was_measured() -> None:
    curves = {
        SiteKey(0, SiteKind.MLP): Curve(((0.5, 0.25), (1.0, 1.0))),
        SiteKey(1, SiteKind.MLP): Curve(((0.5, 0.3),)),
        SiteKey(1, SiteKind.ATTENTION): Curve(),
    }
    figure = figures.sensitivity(curves, 2)
    attention, mlp = (trace for trace in figure.data if trace.type == "heatmap")
    assert np.isnan(attention.z).all()
    half, whole = 9, 19
    assert [mlp.y[half], mlp.y[whole]] == [50, 100]
    np.testing.assert_allclose(mlp.customdata[[half, whole, 13], 0], [0.25, 1.0, 0.7**2])
    assert np.isfinite(mlp.z[: half + 1, 1]).all()
    assert np.isnan(mlp.z[half + 1 :, 1]).all()
    dots = [trace for trace in figure.data if trace.type == "scatter"][1]
    assert [*zip(dots.x, dots.y, strict=True)] == [(0, 50), (0, 100), (1, 50)]


def test_maps_share_one_scale_and_zero_does_not_break_it() -> None:
    values = np.array([[0.0, 1.0], [10.0, 1e9]], np.float32)
    figure = figures.importance(
        [("one", values), ("two", values)], [0, 1], units=64, axis="channels"
    )
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [heat.coloraxis for heat in maps] == ["coloraxis"] * 2
    scale = figure.layout.coloraxis
    assert scale.cmin == -scale.cmax
    for heat in maps:
        assert np.isfinite(heat.z).all()
        assert np.abs(heat.z).max() <= scale.cmax
        assert heat.z.dtype == np.float32
        assert heat.y.tolist() == [0, 32]


def test_a_click_anywhere_on_a_map_meets_a_point_of_its_layer() -> None:
    values = np.ones((384, 30), np.float32)
    figure = figures.importance([("one", values)], range(30), units=1536, axis="channels")
    points = next(trace for trace in figure.data if trace.type == "scattergl")
    assert set(points.x) == set(range(30))
    assert len(points.x) == 30 * 24


def test_figures_stay_small() -> None:
    values = np.random.default_rng(0).random((384, 128), dtype=np.float32)
    figure = figures.importance([("one", values)], range(128), units=1536, axis="channels")
    assert len(figure.to_json()) < 450_000


def test_a_closeup_says_where_it_is() -> None:
    heat = figures.closeup(np.ones((4, 6), np.float32), 2.0, top=32, left=64).data[0]
    assert (heat.x0, heat.y0) == (64, 32)
    assert np.allclose(heat.z, np.log10(0.5).clip(-heat.zmax))


def test_the_curve_of_one_step_is_drawn() -> None:
    assert json.loads(figures.curve([0.5]).to_json())["data"][1]["y"]


def test_a_fusion_that_did_not_learn_has_an_empty_curve() -> None:
    assert [len(trace.y) for trace in figures.curve(()).data] == [0, 0]
