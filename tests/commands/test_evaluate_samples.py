"""``evaluate --samples``: what both models write, in the file and on the screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning_core.evaluation.samples import PROMPTS
from tests.model import tiny_checkpoints

Json = Callable[..., dict[str, Any]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(folder: Path, tmp_path: Path, run: Run) -> Path:
    """A recipe that takes half of the tiny model."""
    place = tmp_path / "recipe.json"
    options = ("--estimator", "magnitude", "--sparsity", "0.5", "--limit", "1")
    code, _, err = run("prune", folder, *options, "--save-recipe", place)
    assert code == 0, err
    return place


def test_a_recipe_beside_dense(folder: Path, recipe: Path, json_of: Json) -> None:
    words = ("evaluate", folder, "--protocol", "none", "--samples")
    report = json_of(*words, "--recipe", recipe)
    samples = report["samples"]
    assert [sample["prompt"] for sample in samples] == [*PROMPTS]
    assert any(sample["dense"] != sample["pruned"] for sample in samples)
    alone = json_of(*words)["samples"]
    assert alone == [{name: sample[name] for name in ("prompt", "dense")} for sample in samples]


def test_without_the_flag_there_are_none(folder: Path, json_of: Json) -> None:
    assert "samples" not in json_of("evaluate", folder, "--protocol", "embedded", "--limit", 1)


def test_they_are_printed_and_written(folder: Path, recipe: Path, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "report.json"
    code, out, err = run(
        *("evaluate", folder, "--recipe", recipe, "--samples", "--limit", 1, "--json", place)
    )
    assert code == 0, err
    assert f"{PROMPTS[0]} ..." in out
    assert out.count("  pruned  ") >= len(PROMPTS)
    assert len(json.loads(place.read_text())["samples"]) == len(PROMPTS)


def test_a_model_that_is_too_short_is_told_before_anything_is_measured(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    short = tiny_checkpoints.save(tmp_path / "short")
    said = refused("evaluate", short, "--protocol", "none", "--samples")
    assert "this model has 64 positions: measure it without samples." in said
