from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.planning.allocation import (
    one_ranking,
    overall,
    owl,
    owl_kept,
    protect_ends,
    shaped,
    uniform,
    unit_places,
    whole_layers,
)
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.maps import random_map

ANATOMY = read_anatomy(tiny.tiny_model(intermediate_size=200))
PLACES = unit_places(ANATOMY)


def removed(anatomy: Anatomy, sparsity: dict[SiteKey, float]) -> float:
    return sum(sparsity[site.key] * site.parameters for site in anatomy.sites)


@given(st.floats(0, 1))
def test_uniform_meets_the_asked_sparsity_within_a_channel(asked: float) -> None:
    shares = uniform(PLACES, asked)
    channel = ANATOMY.of_kind(SiteKind.MLP)[0].width(1, 0).parameters
    attention_gap = max(0.0, removed(ANATOMY, shares) / ANATOMY.prunable_parameters - asked)
    # Near 1 attention may round up to nothing left or down to one head; the MLPs then saturate.
    saturated = all(shares[s.key] in (0.0, 1.0) for s in ANATOMY.of_kind(SiteKind.MLP))
    if not saturated:
        assert abs(removed(ANATOMY, shares) - asked * ANATOMY.prunable_parameters) <= channel
    else:
        assert attention_gap < 0.1


@given(st.floats(0, 1))
def test_every_sparsity_is_reachable(asked: float) -> None:
    for key, value in uniform(PLACES, asked).items():
        assert ANATOMY.by_key[key].snap(value).sparsity == value


def test_fixed_sites_stay_and_the_others_make_up_for_them() -> None:
    locked = SiteKey(1, SiteKind.MLP)
    shares = uniform(PLACES, 0.3, {locked: 0.0})
    assert shares[locked] == 0.0
    assert removed(ANATOMY, shares) / ANATOMY.prunable_parameters == pytest.approx(0.3, abs=0.002)


def test_protected_ends_stay_dense() -> None:
    shares = protect_ends(PLACES, 0.2, ends=1)
    assert {key.layer for key, value in shares.items() if value} == {1}
    assert removed(ANATOMY, shares) / ANATOMY.prunable_parameters == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize("ends", [-1, 2, 99])
def test_ends_that_leave_no_layer_are_refused(ends: int) -> None:
    layers = ANATOMY.layers
    with pytest.raises(PrunescopeError, match=f"is {ends}: a model of {layers} layers allows 0 to"):
        protect_ends(PLACES, 0.2, ends=ends)


def test_what_there_is_no_room_for_goes_as_near_as_can_be() -> None:
    middle = sum(site.parameters for site in ANATOMY.sites if site.key.layer == 1)
    shares = protect_ends(PLACES, 0.9, ends=1)
    assert overall(PLACES, shares) == pytest.approx(middle / ANATOMY.prunable_parameters)
    # Without an MLP to make up for what attention rounds away, the nearest width is all there is.
    mlps = {site.key: 0.0 for site in ANATOMY.of_kind(SiteKind.MLP)}
    attention = ANATOMY.of_kind(SiteKind.ATTENTION)
    asked = 0.3 * sum(site.parameters for site in attention) / ANATOMY.prunable_parameters
    shares = uniform(PLACES, asked, mlps)
    assert all(shares[site.key] == site.snap(0.3).sparsity for site in attention)


def test_overall_is_what_is_asked_where_there_is_room() -> None:
    assert overall(PLACES, uniform(PLACES, 0.3)) == pytest.approx(0.3, abs=0.002)
    assert overall(PLACES, uniform(PLACES, 0.0)) == 0


@pytest.mark.parametrize("asked", [-0.1, 1.5, float("nan")])
def test_impossible_sparsity_is_refused(asked: float) -> None:
    with pytest.raises(PrunescopeError, match="between 0 and 1|must be a number"):
        uniform(PLACES, asked)


def scores(**changes: object) -> ImportanceMap:
    return replace(random_map(ANATOMY), **changes)  # type: ignore[arg-type]


def test_a_shape_is_kept_and_the_whole_is_met() -> None:
    shape = {place.key: 0.2 for place in PLACES if place.key == SiteKey(2, SiteKind.MLP)}
    shares = shaped(PLACES, 0.3, shape)
    assert overall(PLACES, shares) == pytest.approx(0.3, abs=0.002)
    more = shares[SiteKey(2, SiteKind.MLP)] - shares[SiteKey(1, SiteKind.MLP)]
    assert more == pytest.approx(0.2, abs=0.01)


@given(st.floats(0, 0.9), st.integers(0, 5))
def test_every_allocation_meets_the_asked_sparsity_within_a_channel(asked: float, s: int) -> None:
    channel = ANATOMY.of_kind(SiteKind.MLP)[0].width(1, 0).parameters
    outliers = torch.rand(ANATOMY.layers, generator=torch.Generator().manual_seed(s))
    for shares in (
        uniform(PLACES, asked),
        owl(PLACES, asked, outliers),
        one_ranking(PLACES, asked, random_map(ANATOMY, s)),
    ):
        for key, value in shares.items():
            assert ANATOMY.by_key[key].snap(value).sparsity == value
        if any(0 < shares[site.key] < 1 for site in ANATOMY.of_kind(SiteKind.MLP)):
            missed = abs(overall(PLACES, shares) - asked) * ANATOMY.prunable_parameters
            assert missed <= channel * (1 + 1e-6)


def test_one_ranking_takes_more_from_a_site_whose_units_are_worth_less() -> None:
    poor = SiteKey(1, SiteKind.MLP)
    comparable = {
        place.key: SiteScores(torch.full((200,), 0.1 if place.key == poor else 1.0))
        for place in PLACES
        if place.key.kind is SiteKind.MLP
    }
    comparable |= {
        place.key: SiteScores(torch.ones(3), torch.ones(9))
        for place in PLACES
        if place.key.kind is SiteKind.ATTENTION
    }
    shares = one_ranking(PLACES, 0.1, scores(comparable=comparable))
    assert shares[poor] > 0.35
    assert all(shares[key] < 0.1 for key in shares if key != poor)


def test_without_a_word_of_the_estimator_sites_are_compared_over_their_means() -> None:
    key, louder = SiteKey(0, SiteKind.MLP), dict(scores().sites)
    louder[key] = SiteScores(louder[key].units * 100)
    assert one_ranking(PLACES, 0.3, scores(sites=louder)) == one_ranking(PLACES, 0.3, scores())


def test_fixed_sites_do_not_take_part_in_the_ranking() -> None:
    locked = SiteKey(1, SiteKind.MLP)
    shares = one_ranking(PLACES, 0.3, scores(), {locked: 0.0})
    assert shares[locked] == 0.0
    assert overall(PLACES, shares) == pytest.approx(0.3, abs=0.002)


def test_owl_keeps_more_where_outliers_are() -> None:
    kept = owl_kept(torch.tensor([1.0, 2.0, 3.0]), 0.5, 0.08)
    assert torch.allclose(kept, torch.tensor([0.42, 0.5, 0.58]))
    assert torch.allclose(owl_kept(torch.ones(3), 0.5, 0.08), torch.full((3,), 0.5))


def test_whole_layers_leave_the_least_important_first() -> None:
    shares = whole_layers(PLACES, 0.34, scores(layers=torch.tensor([0.3, 0.1, 0.2])))
    assert {key.layer for key, value in shares.items() if value == 1} == {1}
    assert {key.layer for key, value in shares.items() if value == 0} == {0, 2}
    shares = whole_layers(
        PLACES,
        0.34,
        scores(layers=torch.tensor([0.3, 0.1, 0.2])),
        {SiteKey(1, SiteKind.MLP): 0.0},
    )
    assert {key.layer for key, value in shares.items() if value == 1} == {2}


def test_an_estimator_that_scores_no_layers_cannot_remove_them() -> None:
    with pytest.raises(PrunescopeError, match="does not score layers"):
        whole_layers(PLACES, 0.3, scores())
