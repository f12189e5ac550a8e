"""The settings: bounds, presets, the schedule of the rate."""

from __future__ import annotations

from typing import Any

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.recovery.settings import PRESETS, Settings, preset


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": 0}, "rank is 0: it must be a whole number of at least 1"),
        ({"rank": True}, "rank is True"),
        ({"alpha": 0.5}, "alpha is 0.5"),
        ({"steps": 0}, "steps is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"length": 4}, "at least 8"),
        ({"rate": 0.0}, "rate is 0.0: it must be more than 0"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate": "fast"}, "rate is 'fast': it must be a number"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"dropout": 1.0}, "dropout is 1.0: it must lie between 0 and 0.95"),
        ({"distill": 1.5}, "distill is 1.5: it must lie between 0 and 1"),
        ({"text": ""}, "text to train on is ''"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_a_sentence(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(PrunescopeError, match=said.replace("(", r"\(")):
        Settings(**wrong)


def test_the_default_is_the_recipe_of_the_papers() -> None:
    chosen = preset("llm-pruner")
    assert chosen == Settings()
    assert (chosen.rank, chosen.alpha, chosen.dropout, chosen.rate) == (8, 16, 0.05, 1e-4)
    assert (chosen.batch, chosen.length, chosen.epochs, chosen.steps) == (64, 256, 2, None)
    assert chosen.steps_for(51_760) == 1_618


def test_an_unknown_preset_gets_the_nearest() -> None:
    with pytest.raises(PrunescopeError, match="Did you mean 'quick'"):
        preset("quik")


@pytest.mark.parametrize("chosen", PRESETS.values(), ids=PRESETS)
def test_settings_go_through_plain_values(chosen: Settings) -> None:
    assert Settings.from_dict(chosen.as_dict()) == chosen


@pytest.mark.parametrize("values", [[], {"rnak": 8}, {"rank": "8"}])
def test_values_of_something_else_are_refused(values: object) -> None:
    with pytest.raises(PrunescopeError):
        Settings.from_dict(values)


def test_the_rate_rises_and_falls_in_straight_lines() -> None:
    chosen = Settings(rate=1.0, warmup=4)
    rates = [chosen.rate_at(step, 44) for step in range(44)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == pytest.approx([1 - n / 40 for n in range(40)])


def test_a_short_course_does_not_only_warm_up() -> None:
    rates = [Settings(rate=1.0, warmup=100).rate_at(step, 10) for step in range(10)]
    assert max(rates) == rates[1] == 1.0
    assert Settings(rate=1.0).rate_at(0, 1) == 1.0
