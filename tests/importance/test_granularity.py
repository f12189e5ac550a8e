"""Fine and coarse, worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_core.calibration.taylor import PartSums
from pruning_core.importance.granularity import Profiles, site_profiles
from pruning_core.model.anatomy import Part, Segment, Site
from pruning_core.model.anatomy.structure import Coupling
from pruning_core.recipe import SiteKey, SiteKind


def mlp_site(channels: int) -> Site:
    rows = (Segment(Part.CHANNEL, channels, 1),)
    return Site(SiteKey(0, SiteKind.MLP), "mlp", "mlp.down", (Coupling("w", 0, 4, rows),))


def attention_site(heads: int, groups: int) -> Site:
    query, shared = Segment(Part.QUERY_HEAD, heads, 2), Segment(Part.KV_HEAD, groups, 2)
    couplings = (Coupling("q", 0, 4, (query,)), Coupling("k", 0, 4, (shared,)))
    return Site(SiteKey(0, SiteKind.ATTENTION), "attn", "attn.o", couplings)


def sums(signed: list[float], fine: list[float]) -> PartSums:
    """One sample."""
    return PartSums(torch.tensor([signed]), torch.tensor([fine]))


def test_fine_is_the_sum_and_coarse_the_whole() -> None:
    # Channel 0 holds e = 1, -1: they cancel; channel 1 holds e = 1, 1: they add up.
    profiles = site_profiles(mlp_site(2), {Part.CHANNEL: sums([0, 2], [0.5 + 1.5, 0.5 + 0.5])})
    assert profiles.heads is None
    assert profiles.units.fine.tolist() == [[2, 1]]
    assert profiles.units.coarse.tolist() == [[0, 0]]  # |2 - 2^2/2| = 0: the whole goes through 0
    third = site_profiles(mlp_site(1), {Part.CHANNEL: sums([-3], [9])})
    assert third.units.coarse.tolist() == [[7.5]]


def test_a_group_is_its_own_rows_and_its_consecutive_query_heads() -> None:
    heads = [float(head) for head in range(6)]
    profiles = site_profiles(
        attention_site(6, 2),
        {Part.QUERY_HEAD: sums(heads, heads), Part.KV_HEAD: sums([100, 200], [100, 200])},
    )
    assert profiles.heads is not None
    assert profiles.heads.fine.tolist() == [heads]
    assert profiles.heads.coarse.tolist() == [[abs(h - h * h / 2) for h in heads]]
    assert profiles.units.fine.tolist() == [[100 + 0 + 1 + 2, 200 + 3 + 4 + 5]]
    assert profiles.units.coarse.tolist() == [[103**2 / 2 - 103, 212**2 / 2 - 212]]


def test_a_whole_group_may_cancel_though_its_heads_do_not() -> None:
    profiles = site_profiles(
        attention_site(2, 1),
        {Part.QUERY_HEAD: sums([1, -3], [1, 3]), Part.KV_HEAD: sums([2], [2])},
    )
    assert profiles.heads is not None
    assert profiles.heads.coarse.tolist() == [[0.5, 7.5]]
    assert profiles.units.coarse.tolist() == [[0]]


def test_absolute_values_are_taken_per_sample() -> None:
    two = PartSums(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.ones(2, 2))
    profiles = site_profiles(mlp_site(2), {Part.CHANNEL: two})
    assert profiles.units.coarse.tolist() == [[0.5, 0.5], [1.5, 0.5]]


def test_every_sample_counts_alike() -> None:
    fine = torch.tensor([[1.0, 3.0], [3000.0, 1000.0]])
    profiles = Profiles(fine, 2 * fine).normalised()
    expected = torch.tensor([[0.5, 1.5], [1.5, 0.5]])
    torch.testing.assert_close(profiles.fine, expected)
    torch.testing.assert_close(profiles.coarse, expected)


@given(st.lists(st.floats(2.0**-90, 2.0**90, width=32), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_mean_over_a_site_is_1(scores: list[float]) -> None:
    profile = torch.tensor([scores])
    normal = Profiles(profile, profile).normalised()
    assert normal.fine.mean().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(normal.fine.argmax(), profile.argmax())


def test_a_site_without_gradients_ranks_nothing() -> None:
    dead = {Part.CHANNEL: PartSums(torch.zeros(3, 4), torch.zeros(3, 4))}
    profiles = site_profiles(mlp_site(4), dead)
    for grain in ("fine", "coarse"):
        assert profiles.scores(grain).units.tolist() == [1, 1, 1, 1]


def test_scores_are_the_sample_mean_of_normalised_profiles() -> None:
    two = PartSums(torch.zeros(2, 2), torch.tensor([[1.0, 3.0], [3.0, 1.0]]))
    assert site_profiles(mlp_site(2), {Part.CHANNEL: two}).scores("fine").units.tolist() == [1, 1]


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=12))
@settings(deadline=None)
def test_coarse_exceeds_fine_by_no_more_than_the_quadratic_term(terms: list[float]) -> None:
    e = torch.tensor(terms, dtype=torch.float64)
    whole, single = e.sum() ** 2 / 2, (e**2).sum() / 2
    fine = (e - e * e / 2).abs().sum()
    part = PartSums(e.sum().view(1, 1), fine.view(1, 1))
    profiles = site_profiles(mlp_site(1), {Part.CHANNEL: part}).units
    assert profiles.coarse.item() <= profiles.fine.item() + (whole - single).abs().item() + 1e-9
