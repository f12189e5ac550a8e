"""One ranking over all sites: the authors' rule by hand (tests of FLAP hold it to their code)."""

from __future__ import annotations

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.planning.global_ranking import global_ranking
from pruning_core.recipe import SiteKey, SiteKind

HEADS, CHANNELS = SiteKey(0, SiteKind.ATTENTION), SiteKey(0, SiteKind.MLP)
SCORES = {HEADS: torch.tensor([2.0, -1.0]), CHANNELS: torch.tensor([1.0, 0.0, -2.0, 0.5])}
COSTS = {HEADS: 2.9, CHANNELS: 1.0}


def kept(sparsity: float, **options: bool) -> list[list[int]]:
    found = global_ranking(SCORES, COSTS, sparsity, **options)
    return [found[key].int().tolist() for key in (HEADS, CHANNELS)]


def test_it_cuts_where_the_cost_is_nearest_and_takes_the_unit_at_the_cut() -> None:
    # Best first: head 0, channels 0, 3 and 1, head 1, channel 2; 2.9 3.9 4.9 5.9 8.8 9.8 so far.
    assert kept(0.5) == [[1, 0], [1, 0, 0, 0]]
    assert kept(0.4) == [[1, 0], [1, 0, 0, 1]]


def test_costs_can_be_cut_down_to_whole_numbers() -> None:
    # 4.36 of 9.8 should stay, nearest to 3.9; of 2 3 4 5 7 8 so far 3.56, nearest to 4.
    assert kept(0.555) == [[1, 0], [0, 0, 0, 0]]
    assert kept(0.555, whole_costs=True) == [[1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(("sparsity", "stays"), [(0.0, 1), (1.0, 0)])
def test_the_ends_keep_everything_and_nothing(sparsity: float, stays: int) -> None:
    assert kept(sparsity) == [[stays] * 2, [stays] * 4]


def test_a_sparsity_that_is_none_is_refused() -> None:
    with pytest.raises(PrunescopeError, match="between 0 and 1"):
        kept(1.5)
