"""What is taken back, on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from pruning_core.recovery.regained import regained


@pytest.mark.parametrize(
    ("perplexities", "share"),
    [((20, 40, 20), 1.0), ((20, 80, 40), 0.5), ((20, 40, 40), 0.0), ((20, 40, 80), -1.0)],
)
def test_what_is_regained_is_a_share_of_the_loss(
    perplexities: tuple[float, float, float], share: float
) -> None:
    assert regained(*perplexities) == pytest.approx(share)


@pytest.mark.parametrize("perplexities", [(20, 20, 20), (20, math.inf, 30), (20, 30, math.nan)])
def test_where_nothing_was_lost_nothing_is_regained(
    perplexities: tuple[float, float, float],
) -> None:
    assert regained(*perplexities) is None
