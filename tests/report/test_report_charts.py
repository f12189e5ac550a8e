"""Charts: marks where the numbers say, round ticks, labels apart, every text escaped."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.recipe import SiteKey, SiteKind
from pruning_core.report import bars, charts, svg
from pruning_core.report.findings import Difference, Estimate
from pruning_core.report.numbers import percent
from pruning_core.report.scales import Scale, scale_for, spread

HOSTILE = "</svg><script>alert(1)</script>\"'&"


def parts(drawn: str, name: str) -> list[ElementTree.Element]:
    """Return the elements of a drawing by their name; it must be well-formed."""
    return [element for element in ElementTree.fromstring(drawn).iter() if element.tag == name]


def of_kind(drawn: str, name: str, kind: str) -> list[ElementTree.Element]:
    return [part for part in parts(drawn, name) if kind in part.get("class", "").split()]


def place(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name, "nan")) for name in names]


def words(drawn: str) -> list[str]:
    return [part.text or "" for part in parts(drawn, "text")]


class TestScales:
    def test_a_linear_scale_is_a_straight_line(self) -> None:
        scale = Scale(0, 10, 100, 300)
        assert [scale(value) for value in (0, 2.5, 10)] == [100, 150, 300]

    def test_a_logarithmic_one_has_equal_steps_for_equal_factors(self) -> None:
        scale = Scale(1, 10_000, 0, 400, log=True)
        assert [scale(10.0**power) for power in range(5)] == pytest.approx([0, 100, 200, 300, 400])

    def test_what_lies_outside_is_at_the_end(self) -> None:
        assert [Scale(0, 1, 10, 20)(value) for value in (-5, 9)] == [10, 20]

    def test_it_is_logarithmic_where_the_numbers_are_wide(self) -> None:
        assert not scale_for([10, 190], 0, 1).log
        assert scale_for([10, 210], 0, 1).log
        assert not scale_for([0, 210], 0, 1).log

    def test_ticks_are_round(self) -> None:
        assert Scale(0, 1, 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
        assert Scale(80e6, 135e6, 0, 1).ticks() == pytest.approx([80e6, 100e6, 120e6])
        assert Scale(15, 500, 0, 1, log=True).ticks() == pytest.approx([20, 50, 100, 200, 500])
        assert Scale(1, 1e6, 0, 1, log=True).ticks() == pytest.approx(
            [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
        )

    @given(
        st.lists(st.floats(0, 1e300), min_size=1, max_size=9),
        st.sampled_from([True, False, None]),
    )
    def test_every_number_has_a_place_between_the_ends(
        self, values: list[float], log: bool | None
    ) -> None:
        if log:
            values = [max(value, 1e-300) for value in values]
        scale = scale_for(values, 0, 100, log=log)
        assert all(0 <= scale(value) <= 100 for value in values)
        ticks = scale.ticks()
        assert len(ticks) <= 40
        assert all(math.isfinite(tick) and 0 <= scale(tick) <= 100 for tick in ticks)

    @given(st.lists(st.floats(0, 100), max_size=8))
    def test_spread_places_are_in_order_apart_and_inside(self, wanted: list[float]) -> None:
        places = spread(wanted, 10, 0, 100)
        order = sorted(range(len(wanted)), key=lambda at: wanted[at])
        assert all(places[b] - places[a] >= 10 - 1e-9 for a, b in pairwise(order))
        assert all(0 <= place <= 100 for place in places)

    def test_what_is_apart_already_stays_where_it_is(self) -> None:
        assert spread([50, 10, 30], 10, 0, 100) == [50, 10, 30]


class TestSizeAgainstQuality:
    POINTS = (
        charts.Point("dense", 100, 20.0, "diamond"),
        charts.Point("small", 60, 40.0, "circle"),
        charts.Point("middle", 80, 30.0, "circle"),
        charts.Point("zeros", 60, 30.0, "square"),
    )

    def test_marks_lie_where_their_numbers_are(self) -> None:
        drawn = charts.size_against_quality(self.POINTS)
        small, middle = of_kind(drawn, "circle", "pruned")
        (x1, y1), (x2, y2) = (place(mark, "cx", "cy") for mark in (small, middle))
        assert x1 < x2  # fewer parameters to the left
        assert y1 < y2  # more perplexity above
        ticks = {part.text: part for part in of_kind(drawn, "text", "tick")}
        (at_30,) = place(ticks["30"], "y")
        assert y2 == pytest.approx(at_30 - 4)

    def test_a_mark_halfway_between_two_ticks_is_drawn_there(self) -> None:
        drawn = charts.size_against_quality(self.POINTS)
        ticks = {part.text: part for part in of_kind(drawn, "text", "tick")}
        (at_60,), (at_100,) = (place(ticks[name], "x") for name in ("60", "100"))
        x, _ = place(of_kind(drawn, "circle", "pruned")[1], "cx", "cy")
        assert x == pytest.approx((at_60 + at_100) / 2, abs=0.02)

    def test_dense_is_a_diamond_and_weights_are_squares(self) -> None:
        drawn = charts.size_against_quality(self.POINTS)
        assert len(of_kind(drawn, "path", "dense")) == 1
        assert len(of_kind(drawn, "path", "pruned")) == 1
        assert len(of_kind(drawn, "circle", "pruned")) == 2

    def test_wide_perplexities_are_drawn_logarithmically(self) -> None:
        points = [charts.Point(str(at), 50, 10.0**at, "circle") for at in range(1, 6)]
        heights = [
            place(mark, "cy")[0]
            for mark in of_kind(charts.size_against_quality(points), "circle", "pruned")
        ]
        steps = [a - b for a, b in pairwise(heights)]
        assert steps == pytest.approx([steps[0]] * 4, abs=0.02)

    def test_names_of_many_models_do_not_cover_each_other(self) -> None:
        points = [charts.Point(f"model {at}", 60, 30 + at / 100, "circle") for at in range(40)]
        drawn = charts.size_against_quality(points)
        lines = sorted(place(name, "y")[0] for name in of_kind(drawn, "text", "name"))
        assert len(lines) == 40
        assert all(b - a >= 12 for a, b in pairwise(lines))
        _, _, _, height = map(float, ElementTree.fromstring(drawn).get("viewBox", "").split())
        assert 0 < lines[0] < lines[-1] < height

    def test_leaked_ones_are_marked(self) -> None:
        drawn = charts.size_against_quality([charts.Point("a", 60, 30.0, "circle", leaked=True)])
        assert len(of_kind(drawn, "circle", "leaked")) == 1
        assert "a (leaked)" in words(drawn)

    def test_one_point_alone_and_extreme_ones_are_drawn(self) -> None:
        for points in ([(1, 1e300)], [(0, 0.0), (2**62, 1e300)], [(5, 1e-300), (5, 1e300)]):
            drawn = charts.size_against_quality(
                [charts.Point("a", count, value, "circle") for count, value in points]
            )
            assert "nan" not in drawn
            assert len(of_kind(drawn, "circle", "pruned")) == len(points)


class TestForest:
    def test_intervals_end_where_their_numbers_are(self) -> None:
        rows = [charts.Row("worse", Difference(2.0, 1.0, 4.0, True))]
        drawn = charts.forest(rows, charts.FACTOR, "Times")
        (none,) = of_kind(drawn, "line", "none-line")
        across, low, high = of_kind(drawn, "line", "interval")
        x1, x2 = place(across, "x1", "x2")
        assert place(none, "x1") == [x1]  # the interval begins at "no difference"
        assert [place(low, "x1")[0], place(high, "x1")[0]] == [x1, x2]
        ticks = {part.text: place(part, "x")[0] for part in of_kind(drawn, "text", "tick")}
        assert ticks["×\u00a02"] == pytest.approx((x1 + x2) / 2, abs=0.02)  # factors are equal

    def test_what_is_within_noise_looks_different(self) -> None:
        rows = [
            charts.Row("clear", Difference(-0.1, -0.2, -0.05, True)),
            charts.Row("unclear", Difference(-0.1, -0.3, 0.1, False)),
        ]
        drawn = charts.forest(rows, charts.POINTS, "Points")
        assert len(of_kind(drawn, "path", "beyond")) == len(of_kind(drawn, "path", "within")) == 1
        assert "−10.00 (−30.00 to +10.00)" in words(drawn)
        assert "← worse" in words(drawn)

    def test_a_difference_without_an_interval_is_a_mark_alone(self) -> None:
        drawn = charts.forest([charts.Row("a", Difference(1.5))], charts.FACTOR, "Times")
        assert not of_kind(drawn, "line", "interval")
        assert len(of_kind(drawn, "path", "within")) == 1


class TestBars:
    def test_shares_are_as_long_as_they_are(self) -> None:
        shares = (Estimate(1.0), Estimate(0.5, 0.4, 0.7))
        panel = bars.Panel(
            "A task",
            0.25,
            [bars.Bar("dense", shares[0], True)] + [bars.Bar("pruned", shares[1], False)],
        )
        drawn = bars.right_answers([panel])
        (whole,), (half,) = (of_kind(drawn, "rect", kind) for kind in ("dense-bar", "pruned-bar"))
        left, full = place(whole, "x", "width")
        assert place(half, "x", "width") == pytest.approx([left, full / 2], abs=0.02)
        across, low, high = of_kind(drawn, "line", "whisker")
        assert place(across, "x1", "x2") == pytest.approx(
            [left + 0.4 * full, left + 0.7 * full], abs=0.02
        )
        (chance,) = of_kind(drawn, "line", "chance")
        assert place(chance, "x1") == pytest.approx([left + full / 4], abs=0.02)
        assert f"chance {percent(0.25)}" in words(drawn)
        assert f"{percent(0.5)} ({percent(0.4)} to {percent(0.7)})" in words(drawn)

    def test_panels_do_not_cover_each_other(self) -> None:
        panels = [
            bars.Panel(f"task {at}", 0.5, [bars.Bar("dense", Estimate(0.6), True)])
            for at in range(5)
        ]
        drawn = bars.right_answers(panels)
        tops = [place(rect, "y")[0] for rect in of_kind(drawn, "rect", "dense-bar")]
        assert all(b - a > 40 for a, b in pairwise(tops))

    def test_layers_are_as_high_as_their_sparsity_attention_above(self) -> None:
        sparsity = {
            SiteKey(0, SiteKind.ATTENTION): 1.0,
            SiteKey(2, SiteKind.ATTENTION): 0.25,
            SiteKey(1, SiteKind.MLP): 0.5,
        }
        drawn = bars.layers(sparsity, 4)
        whole, quarter = of_kind(drawn, "rect", "lane-attention")
        (half,) = of_kind(drawn, "rect", "lane-mlp")
        (full,) = place(whole, "height")
        assert [*place(quarter, "height"), *place(half, "height")] == pytest.approx(
            [full / 4, full / 2], abs=0.02
        )
        assert place(whole, "x") < place(half, "x") < place(quarter, "x")
        assert place(quarter, "y") < place(half, "y")

    def test_a_model_of_very_many_layers_is_drawn(self) -> None:
        drawn = bars.layers({SiteKey(999, SiteKind.MLP): 0.5}, 1000)
        assert len(of_kind(drawn, "rect", "lane-mlp")) == 1


@pytest.mark.parametrize(
    "drawn",
    [
        charts.size_against_quality([charts.Point(HOSTILE, 60, 30.0, "circle")]),
        charts.forest([charts.Row(HOSTILE, Difference(1.5, 1.4, 1.6))], charts.FACTOR, HOSTILE),
        bars.right_answers([bars.Panel(HOSTILE, 0.5, [bars.Bar(HOSTILE, Estimate(0.5), True)])]),
        svg.drawing(10, 10, HOSTILE, [svg.text(1, 1, HOSTILE, HOSTILE)], HOSTILE),
    ],
    ids=["sizes", "forest", "bars", "primitives"],
)
def test_hostile_names_stay_text(drawn: str) -> None:
    assert not parts(drawn, "script")
    assert "<script" not in drawn
    assert any("<script>" in said or "</svg>" in said for said in words(drawn))


def test_long_names_are_cut_off_and_told_in_full_under_the_pointer() -> None:
    name = "long " * 100
    drawn = charts.size_against_quality([charts.Point(name, 60, 30.0, "circle")])
    (written,) = of_kind(drawn, "text", "name")
    assert len(written.text or "") < 40
    assert any(name in (title.text or "") for title in parts(drawn, "title"))
