"""One blend per site, learned as two variances: what it may do, and that it learns."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from pruning_core.importance.estimators.saap import Uncertainty
from pruning_core.importance.fusion import Sites, Training, fused_scores, train_fusion
from pruning_core.importance.granularity import Profiles, SiteProfiles
from pruning_core.model.anatomy import Anatomy, Part, read_anatomy
from pruning_core.progress import Cancelled
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

TRAINING = Training(sparsity=0.4, spread=0.1, steps=40, batch=1, seed=0)
FINE, COARSE = SiteKey(0, SiteKind.MLP), SiteKey(1, SiteKind.MLP)
"""The sites whose fine and whose coarse score `Divided` believes."""


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(tiny.tiny_model())


def random_sites(anatomy: Anatomy) -> Sites:
    """Return profiles drawn at random for every site."""
    draw = torch.Generator().manual_seed(0)

    def profiles(groups: int) -> Profiles:
        return Profiles(*torch.rand(2, 5, groups, generator=draw).add(0.01))

    return {
        site.key: (
            site,
            SiteProfiles(
                profiles(site.units),
                profiles(site.counts[Part.QUERY_HEAD]) if Part.QUERY_HEAD in site.counts else None,
            ),
        )
        for site in anatomy.sites
    }


class Divided:
    """A divergence that would rather keep what is fine at one site, and coarse at another."""

    windows = 4

    def __init__(self, sites: Sites) -> None:
        self._worth = {
            key: sites[key][1].scores(grain).units
            for key, grain in ((FINE, "fine"), (COARSE, "coarse"))
        }

    def backward(self, masks: Mapping[SiteKey, torch.Tensor], _windows: list[int]) -> float:
        lost = torch.stack([((1 - masks[key]) * worth).sum() for key, worth in self._worth.items()])
        lost.sum().backward()
        return lost.sum().item()


def test_a_site_believes_what_the_divergence_bears_out(anatomy: Anatomy) -> None:
    sites = random_sites(anatomy)
    fusion = train_fusion(Uncertainty(sites), sites, Divided(sites), TRAINING)
    assert fusion.sites[FINE].attention.units[0] > 0.75
    assert fusion.sites[COARSE].attention.units[0] < 0.25
    assert fusion.curve[-1] < fusion.curve[0]


def test_where_the_divergence_says_nothing_the_blend_stays_even(anatomy: Anatomy) -> None:
    sites = random_sites(anatomy)
    fusion = train_fusion(Uncertainty(sites), sites, Divided(sites), TRAINING)
    for key, site in fusion.sites.items():
        if key not in (FINE, COARSE):
            assert (site.attention.units == 0.5).all()


def test_units_and_heads_of_a_site_share_one_blend_and_are_scored_by_it(anatomy: Anatomy) -> None:
    sites = random_sites(anatomy)
    fusion = train_fusion(Uncertainty(sites), sites, Divided(sites), TRAINING)
    assert set(fusion.sites) == set(sites)
    for key, decided in fusion.sites.items():
        site, scores = anatomy.by_key[key], fused_scores(decided)
        share = decided.attention.units
        assert share.shape == (site.units,)
        assert len(set(share.tolist())) == 1
        assert torch.equal(
            scores.units, share * decided.fine.units + (1 - share) * decided.coarse.units
        )
        if decided.attention.heads is not None:
            assert decided.attention.heads.shape == (site.counts[Part.QUERY_HEAD],)
            assert set(decided.attention.heads.tolist()) == set(share.tolist())


def test_the_share_is_that_of_the_inverse_variances(anatomy: Anatomy) -> None:
    shares = Uncertainty(random_sites(anatomy))
    (logs, *_) = shares.groups()[0]["params"]
    with torch.no_grad():
        logs.copy_(torch.tensor([0.25, 4.0]).log())
    first = anatomy.sites[0].key
    expected = (1 / 0.25) / (1 / 0.25 + 1 / 4)
    torch.testing.assert_close(shares.units(first), torch.full((3,), expected))


def test_the_penalty_is_least_for_an_even_blend_of_variance_one(anatomy: Anatomy) -> None:
    shares = Uncertainty(random_sites(anatomy))
    penalty = shares.penalty()
    # mean I = 1/2 + 1/2, log(1 * 1) = 0.
    assert penalty.item() == 1
    penalty.backward()
    for logs in shares.groups()[0]["params"]:
        assert logs.grad.tolist() == [0, 0]
        with torch.no_grad():
            logs += torch.tensor([0.3, -0.2])
    assert shares.penalty().item() > 1


def test_a_seed_repeats(anatomy: Anatomy) -> None:
    sites = random_sites(anatomy)
    one, two = (train_fusion(Uncertainty(sites), sites, Divided(sites), TRAINING) for _ in range(2))
    assert one.curve == two.curve
    assert torch.equal(one.sites[FINE].attention.units, two.sites[FINE].attention.units)


def test_cancelling_is_passed_on(anatomy: Anatomy) -> None:
    sites = random_sites(anatomy)

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_fusion(Uncertainty(sites), sites, Divided(sites), TRAINING, stop)
