from __future__ import annotations

import math

import pytest

from app import words


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1536, "1.54 k"), (134_515_008, "135 M"), (6.74e9, "6.74 B")],
)
def test_count(number: float, text: str) -> None:
    assert words.count(number) == text


def test_size_speaks_of_bytes() -> None:
    assert words.size(269_030_016) == "269 MB"
    assert words.size(13.5e9) == "13.5 GB"
    assert words.size(884) == "884 B"


@pytest.mark.parametrize(
    ("value", "text"),
    [(14.5584, "14.558"), (113.97, "114.0"), (1_183_515.27, "1.18e+06"), (math.inf, "overflow")],
)
def test_perplexity(value: float, text: str) -> None:
    assert words.perplexity(value) == text


def test_change_has_a_sign() -> None:
    assert words.change(-0.1234) == "-12.3 %"
    assert words.change(0.5, 0) == "+50 %"
