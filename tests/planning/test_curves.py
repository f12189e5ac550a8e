"""Sensitivity curves: between the points, at the points, and which are still missing."""

from __future__ import annotations

import numpy as np
import pytest

from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.planning.curves import Curve, missing, no_curves
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

MLP = SiteKey(1, SiteKind.MLP)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(tiny.tiny_model())


def test_a_curve_goes_through_its_points_and_through_dense() -> None:
    curve = Curve(((0.25, 0.1), (0.5, 0.4), (1.0, -0.2)))
    assert curve.at([0.0, 0.25, 0.5, 1.0]) == pytest.approx([0, 0.1, 0.4, -0.2])


def test_between_points_it_is_exact_for_what_grows_with_the_square() -> None:
    curve = Curve(((0.5, 0.5**2), (1.0, 1.0)))
    assert curve.at(np.array([0.1, 0.3, 0.8])) == pytest.approx([0.01, 0.09, 0.64])


def test_a_curve_without_points_promises_nothing() -> None:
    assert Curve().at([0.0, 0.7]) == pytest.approx([0, 0])


def test_points_stay_in_order_and_a_newer_one_replaces_an_older(anatomy: Anatomy) -> None:
    curves = no_curves(3.0, anatomy.sites)
    for sparsity, increase in ((0.5, 0.2), (0.25, 0.1), (0.5, 0.3)):
        curves = curves.with_point(MLP, sparsity, increase)
    assert curves.sites[MLP].points == ((0.25, 0.1), (0.5, 0.3))
    assert curves.dense == 3.0


def test_increases_stand_in_the_order_of_the_sites(anatomy: Anatomy) -> None:
    curves = no_curves(3.0, anatomy.sites).with_point(MLP, 0.5, 0.2)
    found = curves.increases({MLP: 0.5})
    assert found == pytest.approx([0.2 * (site.key == MLP) for site in anatomy.sites])


def test_what_is_missing_is_reachable_and_asked_for_once(anatomy: Anatomy) -> None:
    curves = no_curves(3.0, anatomy.sites)
    todo = missing(curves, anatomy, (0.5, 0.25, 1.0))
    assert len(set(todo)) == len(todo)
    for key, sparsity in todo:
        assert sparsity == anatomy.by_key[key].snap(sparsity).sparsity > 0
    # Level by level, so that a first picture of all sites is there early.
    assert [key for key, _ in todo[: len(anatomy.sites)]] == [site.key for site in anatomy.sites]
    for key, sparsity in todo:
        curves = curves.with_point(key, sparsity, 0.0)
    assert missing(curves, anatomy, (0.5, 0.25, 1.0)) == []
