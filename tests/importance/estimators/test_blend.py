"""Blends without training: every rule by hand, and what it does where there is nothing to go by."""

from __future__ import annotations

import math

import pytest
import torch

from pruning_core.importance.estimators.blend import blended, coherence, constant, snr
from pruning_core.importance.granularity import Profiles, SiteProfiles
from pruning_core.importance.registry import estimator
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny
from tests.importance.test_estimators import run

MODES = ["average", "constant", "snr", "coherence"]


def profiles(fine: list[list[float]], coarse: list[list[float]]) -> Profiles:
    """One list a sample."""
    return Profiles(torch.tensor(fine), torch.tensor(coarse))


def test_average_is_the_mean_of_both_and_constant_goes_from_one_to_the_other() -> None:
    average, coarse, fine, fifth = (
        run("blend", tiny.tiny_model(), **params)
        for params in (
            {},
            {"mode": "constant", "share": 0.0},
            {"mode": "constant", "share": 1.0},
            {"mode": "constant", "share": 0.2},
        )
    )
    for name, blend in (("fine", fine), ("coarse", coarse)):
        alone = run(name, tiny.tiny_model())
        for key, site in alone.sites.items():
            assert torch.equal(blend.sites[key].units, site.units)
    for key, site in fine.sites.items():
        one, other = site.units, coarse.sites[key].units
        torch.testing.assert_close(average.sites[key].units, (one + other) / 2)
        torch.testing.assert_close(fifth.sites[key].units, one / 5 + other * 4 / 5)


def test_the_share_counts_in_mode_constant_only() -> None:
    for mode in ("average", "snr", "coherence"):
        one, other = (
            run("blend", tiny.tiny_model(), mode=mode, share=share) for share in (0.1, 0.9)
        )
        for key, site in one.sites.items():
            assert torch.equal(site.units, other.sites[key].units)


@pytest.mark.parametrize("mode", MODES)
def test_shares_lie_between_0_and_1_and_heads_have_their_own(mode: str) -> None:
    fusion = run("blend", tiny.tiny_model(), mode=mode).fusion
    assert fusion is not None
    for key, site in fusion.sites.items():
        assert (site.attention.heads is not None) == (key.kind is SiteKind.ATTENTION)
        for shares in (site.attention.units, site.attention.heads):
            if shares is not None:
                assert ((shares >= 0) & (shares <= 1)).all()
    channels = fusion.sites[SiteKey(1, SiteKind.MLP)].attention.units
    assert (len(set(channels.tolist())) > 1) == (mode in ("snr", "coherence"))


def test_snr_believes_what_is_steadier_over_the_samples() -> None:
    # Channel 0: fine has 1 and 1.5, coarse 0.5 and 1.5; each sample has mean 1 over the two.
    shares = snr(profiles([[1.0, 1.0], [1.5, 0.5]], [[0.5, 1.5], [1.5, 0.5]]))
    fine, coarse = 1.25 / math.sqrt(0.125), 1 / math.sqrt(0.5)
    assert shares[0].item() == pytest.approx(1 / (1 + math.exp(coarse - fine)))
    assert shares[0] > 0.5


def test_snr_is_blind_to_the_loudness_of_a_granularity_and_of_a_sample() -> None:
    draw = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(2, 5, 8, generator=draw).add(0.1)
    loud = torch.tensor([[1.0], [100.0], [1.0], [7.0], [0.01]])
    torch.testing.assert_close(
        snr(Profiles(fine, coarse)), snr(Profiles(fine * 1000 * loud, coarse * loud))
    )


@pytest.mark.parametrize("samples", [1, 3])
def test_snr_is_even_where_there_is_no_spread(samples: int) -> None:
    still = torch.ones(samples, 4)
    assert snr(Profiles(still, 2 * still)).tolist() == [0.5] * 4


def test_coherence_believes_fine_where_weights_cancel() -> None:
    # All cancels, half of it, none; and a quadratic term that lifts coarse above fine.
    shares = coherence(profiles([[2.0, 4, 3, 1], [2, 4, 3, 1]], [[0.0, 1, 3, 5], [0, 3, 3, 5]]))
    assert shares.tolist() == [1.0, 0.5, 0.0, 0.0]


def test_a_site_without_gradients_is_blended_evenly_and_stays_finite() -> None:
    dead = SiteProfiles(Profiles(torch.zeros(3, 4), torch.zeros(3, 4)), None)
    for rule in (constant(0.5), snr, coherence):
        site = blended(dead, rule)
        assert site.attention.units.tolist() == [0.5] * 4
        assert site.fine.units.tolist() == site.coarse.units.tolist() == [1.0] * 4


def test_it_says_that_it_is_a_reconstruction_without_training() -> None:
    method = estimator("blend")
    assert "reconstruction" in method.source
    assert "no training" in method.title
