"""``evaluate --speed``: the cost side of a recipe beside dense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Json = Callable[..., dict[str, Any]]
Run = Callable[..., tuple[int, str, str]]
QUICK = ("--windows", "2", "--length", "32", "--protocol", "probe", "--limit", "1")


@pytest.fixture
def recipe(folder: Path, tmp_path: Path, json_of: Json) -> Callable[..., Path]:
    """Save the recipe of a quick pruning."""

    def save(*words: str) -> Path:
        place = tmp_path / "recipe.json"
        json_of("prune", folder, *QUICK, *words, "--save-recipe", place)
        return place

    return save


def test_both_phases_are_timed_and_told(
    folder: Path, recipe: Callable[..., Path], json_of: Json, run: Run
) -> None:
    place = recipe("--estimator", "magnitude", "--sparsity", "0.5")
    words = ("evaluate", folder, "--protocol", "none", "--recipe", place, "--speed", "2x16")
    cost = json_of(*words)["cost"]
    assert cost["pruned"]["parameters"] < cost["dense"]["parameters"]
    assert [(row["phase"], row["batch"], row["length"]) for row in cost["speeds"]] == [
        ("prefill", 2, 16),
        ("decode", 2, 16),
    ]
    code, said, err = run(*words)
    assert code == 0, err
    assert "prefill, batch 2, length 16" in said
    assert "t/s" in said
    assert "0 % faster" not in said


def test_masks_are_called_no_faster(folder: Path, recipe: Callable[..., Path], run: Run) -> None:
    place = recipe("--pattern", "2:4")
    words = ("evaluate", folder, "--protocol", "none", "--recipe", place, "--speed", "1x16")
    code, said, err = run(*words)
    assert code == 0, err
    assert "0 % faster and no smaller" in said


@pytest.mark.parametrize("text", ["fast", "0x12", "1x", "x12", "1x-4", "1x1x1"])
def test_a_workload_that_is_none_is_refused(
    folder: Path, refused: Callable[..., str], text: str
) -> None:
    assert "such as 1x512" in refused("evaluate", folder, f"--speed={text}")


def test_speed_needs_a_recipe(folder: Path, refused: Callable[..., str]) -> None:
    assert "give one with --recipe" in refused("evaluate", folder, "--speed")


def test_a_length_beyond_the_model_is_refused(
    folder: Path, recipe: Callable[..., Path], refused: Callable[..., str]
) -> None:
    place = recipe("--estimator", "magnitude", "--sparsity", "0.5")
    said = refused("evaluate", folder, "--recipe", place, "--speed", "1x99999")
    assert "Choose a length of at most" in said
