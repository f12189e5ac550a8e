"""Agreement of importance maps, against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from pruning_core.importance.compare import (
    correlations,
    overlap,
    rank_correlation,
    ranks,
    spread,
    standings,
)
from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.recipe import Scoring, SiteKey, SiteKind

MLP = SiteKey(0, SiteKind.MLP)
ATTENTION = SiteKey(0, SiteKind.ATTENTION)


def a_map(
    units: list[float], heads: list[float] | None = None, name: str = "fine"
) -> ImportanceMap:
    """Return a map of one site: an MLP, or attention if heads are scored."""
    site = SiteScores(torch.tensor(units), None if heads is None else torch.tensor(heads))
    return ImportanceMap("abc", Scoring(name), {MLP if heads is None else ATTENTION: site})


RISING = a_map([1.0, 2.0, 3.0, 4.0])
FALLING = a_map([4.0, 3.0, 2.0, 1.0], name="coarse")
SWAPPED = a_map([10.0, 0.5, 20.0, 30.0], name="random")  # as RISING but for the lowest two


def indices(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_of_equals_the_lower_index_ranks_first() -> None:
    assert ranks(torch.tensor([1.0, 2.0, 1.0, 3.0])).tolist() == [2, 1, 3, 0]


def test_correlations_of_every_two() -> None:
    # Two neighbours of four swapped: 1 - 6·(1² + 1²) / (4·(4² - 1)) = 0.8.
    expected = [[1, -1, 0.8], [-1, 1, -0.8], [0.8, -0.8, 1]]
    found = correlations((RISING, FALLING, SWAPPED), MLP)
    assert found.dtype == torch.float64
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))
    assert rank_correlation(RISING, SWAPPED, MLP) == pytest.approx(0.8)


def test_attention_is_compared_by_its_query_heads() -> None:
    one = a_map([1.0, 2.0], heads=[1.0, 2.0, 3.0, 4.0])
    other = a_map([2.0, 1.0], heads=[1.0, 2.0, 3.0, 5.0])
    assert rank_correlation(one, other, ATTENTION) == pytest.approx(1)


def test_a_single_unit_and_a_single_map_correlate_fully() -> None:
    assert correlations((a_map([1.0]), a_map([7.0])), MLP).tolist() == [[1, 1], [1, 1]]
    assert correlations((RISING,), MLP).tolist() == [[1]]


def test_overlap_is_what_both_remove_of_what_either_does() -> None:
    found = overlap([indices(0, 1, 2), indices(2, 3), indices(4)])
    expected = torch.tensor([[1, 0.25, 0], [0.25, 1, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.equal(found, expected)


def test_two_that_remove_nothing_coincide() -> None:
    assert overlap([indices(), indices(), indices(0)]).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_why_a_unit_goes() -> None:
    one, other, third = standings((RISING, FALLING, SWAPPED), MLP, unit=1, kept=3)
    assert [s.estimator for s in (one, other, third)] == ["fine", "coarse", "random"]
    # The last of three that stay under RISING is unit 1 itself.
    assert (one.rank, one.kept, one.units, one.goes, one.margin, one.ratio) == (
        *(2, 3, 4, False, 1, 1.0),
    )
    # Under FALLING that is unit 2 with a score of 2, and unit 1 has 3.
    assert (other.rank, other.goes, other.margin, other.ratio) == (1, False, 2, 1.5)
    # Under SWAPPED it is unit 0 with 10, and unit 1 with 0.5 is the first that goes.
    assert (third.rank, third.goes, third.margin, third.ratio) == (3, True, -1, 0.05)


@pytest.mark.parametrize(("kept", "margins"), [(0, [-1, -4]), (2, [2, -2]), (4, [4, 1])])
def test_the_margin_counts_the_ranks_to_the_other_side(kept: int, margins: list[int]) -> None:
    found = standings((FALLING, RISING), MLP, unit=0, kept=kept)
    assert [standing.margin for standing in found] == margins


@pytest.mark.parametrize(
    ("scores", "kept"), [([3.0, 1.0], 0), ([3.0, 0.0], 2), ([-1.0, -2.0], 2)], ids=str
)
def test_there_is_no_multiple_of_nothing(scores: list[float], kept: int) -> None:
    (standing,) = standings((a_map(scores),), MLP, unit=0, kept=kept)
    assert standing.ratio is None


def test_a_key_value_head_stands_as_a_whole() -> None:
    attention = a_map([1.0, 4.0], heads=[9.0, 8.0, 1.0, 2.0])
    (standing,) = standings((attention,), ATTENTION, unit=0, kept=1)
    assert (standing.rank, standing.units, standing.ratio) == (1, 2, 0.25)


def test_the_spread_over_seeds() -> None:
    maps = (RISING, SWAPPED, FALLING)
    removed = [{MLP: gone} for gone in (indices(0, 1), indices(1, 0), indices(2, 0))]
    found = spread(maps, removed)
    assert found.keys() == {MLP}
    # Pairs correlate by 0.8, -1 and -0.8; unit 0 always goes, 3 never, 1 and 2 now and then.
    assert found[MLP].correlation == pytest.approx(-1 / 3)
    assert found[MLP].same_fate == 0.5


def test_the_spread_of_attention_is_over_query_heads() -> None:
    maps = [a_map([1.0, 2.0], heads=[1.0, 2.0, 3.0, 4.0])] * 2
    found = spread(maps, [{ATTENTION: indices(0)}, {ATTENTION: indices(1)}])
    assert (found[ATTENTION].correlation, found[ATTENTION].same_fate) == (pytest.approx(1), 0.5)
