from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Anatomy, read_anatomy
from pruning_core.planning.allocation import overall, protect_ends, uniform
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

ANATOMY = read_anatomy(tiny.tiny_model(intermediate_size=200))


def removed(anatomy: Anatomy, sparsity: dict[SiteKey, float]) -> float:
    return sum(sparsity[site.key] * site.parameters for site in anatomy.sites)


@given(st.floats(0, 1))
def test_uniform_meets_the_asked_sparsity_within_a_channel(asked: float) -> None:
    shares = uniform(ANATOMY, asked)
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
    for key, value in uniform(ANATOMY, asked).items():
        assert ANATOMY.by_key[key].snap(value).sparsity == value


def test_fixed_sites_stay_and_the_others_make_up_for_them() -> None:
    locked = SiteKey(1, SiteKind.MLP)
    shares = uniform(ANATOMY, 0.3, {locked: 0.0})
    assert shares[locked] == 0.0
    assert removed(ANATOMY, shares) / ANATOMY.prunable_parameters == pytest.approx(0.3, abs=0.002)


def test_protected_ends_stay_dense() -> None:
    shares = protect_ends(ANATOMY, 0.2, ends=1)
    assert {key.layer for key, value in shares.items() if value} == {1}
    assert removed(ANATOMY, shares) / ANATOMY.prunable_parameters == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize("ends", [-1, 2, 99])
def test_ends_that_leave_no_layer_are_refused(ends: int) -> None:
    layers = ANATOMY.layers
    with pytest.raises(PrunescopeError, match=f"is {ends}: a model of {layers} layers allows 0 to"):
        protect_ends(ANATOMY, 0.2, ends=ends)


def test_what_there_is_no_room_for_goes_as_near_as_can_be() -> None:
    middle = sum(site.parameters for site in ANATOMY.sites if site.key.layer == 1)
    shares = protect_ends(ANATOMY, 0.9, ends=1)
    assert overall(ANATOMY, shares) == pytest.approx(middle / ANATOMY.prunable_parameters)
    # Without an MLP to make up for what attention rounds away, the nearest width is all there is.
    mlps = {site.key: 0.0 for site in ANATOMY.of_kind(SiteKind.MLP)}
    attention = ANATOMY.of_kind(SiteKind.ATTENTION)
    asked = 0.3 * sum(site.parameters for site in attention) / ANATOMY.prunable_parameters
    shares = uniform(ANATOMY, asked, mlps)
    assert all(shares[site.key] == site.snap(0.3).sparsity for site in attention)


def test_overall_is_what_is_asked_where_there_is_room() -> None:
    assert overall(ANATOMY, uniform(ANATOMY, 0.3)) == pytest.approx(0.3, abs=0.002)
    assert overall(ANATOMY, uniform(ANATOMY, 0.0)) == 0


@pytest.mark.parametrize("asked", [-0.1, 1.5, float("nan")])
def test_impossible_sparsity_is_refused(asked: float) -> None:
    with pytest.raises(PrunescopeError, match="between 0 and 1|must be a number"):
        uniform(ANATOMY, asked)
