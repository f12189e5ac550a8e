"""Exporting on the command line: checked, written, proven, refused in sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning_core.model.loading import load

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--windows", "2", "--length", "32", "--estimator", "wanda-sp")
MEASURED = ("--protocol", "probe", "--limit", "2")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture
def recipe(
    recipes: Path, folder: Path, json_of: Callable[..., dict[str, Any]]
) -> Callable[..., Path]:
    """Prune once and return the saved run, or the recipe alone."""

    def recipe(*words: object, name: str = "run.json") -> Path:
        path = recipes / name
        if not path.exists():
            saved = recipes / f"recipe-{name}"
            run = json_of("prune", folder, *QUICK, *MEASURED, *words, "--save-recipe", saved)
            path.write_text(json.dumps(run))
        return path

    return recipe


def test_a_run_is_exported_and_its_numbers_are_in_the_card(
    folder: Path, recipe: Callable[..., Path], tmp_path: Path, run: Run
) -> None:
    run_file = recipe("--sparsity", "0.3")
    out = tmp_path / "out"
    code, said, err = run("export", folder, "--recipe", run_file, "--format", "plain", "--out", out)
    assert code == 0, err
    assert "Proof: loaded as LlamaForCausalLM in a fresh process" in said
    assert "logits differ by at most 0," in said
    assert said.endswith(f"Written: {out}\n")
    values = json.loads(run_file.read_text())
    card = (out / "README.md").read_text()
    assert f"{values['pruned']['quality']['perplexity']:.3f}" in card
    assert values["protocol"]["title"] in card
    again = load(str(out), device="cpu", dtype="float32")
    assert again.preflight.parameters == values["parameters"]["after"]


def test_a_check_tells_every_format_and_writes_nothing(
    folder: Path,
    recipe: Callable[..., Path],
    tmp_path: Path,
    run: Run,
    json_of: Callable[..., dict[str, Any]],
) -> None:
    words = ("export", folder, "--recipe", recipe("--sparsity", "0.3"), "--check-only")
    found = json_of(*words)["formats"]
    assert [one["format"] for one in found] == ["plain", "padded", "per-layer", "gguf", "masks"]
    assert all(one["possible"] and 0 < one["saves"] < 1 for one in found)
    code, said, _err = run(*words)
    assert code == 0
    for one in found:
        assert f"\n{one['format']}: {one['title']}\n" in said
    assert not list(tmp_path.iterdir())


def test_thinned_weights_are_exported(
    folder: Path, recipe: Callable[..., Path], json_of: Callable[..., dict[str, Any]]
) -> None:
    file = recipe("--pattern", "2:4", "--estimator", "wanda", name="thinned.json")
    found = json_of("export", folder, "--recipe", file, "--check-only")["formats"]
    possible = {one["format"]: one["saves"] for one in found if one["possible"]}
    assert set(possible) == {"plain", "gguf", "masks"}
    assert possible["plain"] == 0
    assert possible["masks"] > 0.9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "plain"), "needs --format and --out"),
        (("--out", "x"), "needs --format and --out"),
        (("--format", "onnx", "--out", "x"), "Unknown format 'onnx'"),
        (("--format", "plain", "--out", "x", "--max-shard-size", "0"), "more than 0 gigabytes"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(
    recipe: Callable[..., Path], refused: Callable[..., str], words: tuple[str, ...], said: str
) -> None:
    file = recipe("--sparsity", "0.3")
    assert said in refused("export", "nowhere/at-all", "--recipe", file, *words)


def test_a_folder_that_is_there_is_refused_before_the_model_is_loaded(
    recipe: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    words = ("export", "nowhere/at-all", "--recipe", recipe("--sparsity", "0.3"))
    said = refused(*words, "--format", "plain", "--out", tmp_path)
    assert "is there already" in said


def test_a_run_without_its_numbers_is_refused(
    recipe: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    values = json.loads(recipe("--sparsity", "0.3").read_text())
    del values["pruned"]["quality"]
    file = tmp_path / "run.json"
    file.write_text(json.dumps(values))
    assert "lacks a number" in refused("export", "demo", "--recipe", file, "--check-only")


def test_a_format_that_cannot_hold_the_plan_says_so(
    folder: Path, recipe: Callable[..., Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    file = recipe("--sparsity", "0.3", "--allocation", "ranking", name="ranked.json")
    said = refused(
        "export", folder, "--recipe", file, "--format", "plain", "--out", tmp_path / "out"
    )
    assert "cannot hold this plan" in said
    assert not list(tmp_path.iterdir())


def test_a_repair_is_switched_on_for_the_export(
    recipe: Callable[..., Path],
    folder: Path,
    json_of: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    words = ("export", folder, "--recipe", recipe(), "--format", "plain", "--out")
    json_of(*words, tmp_path / "plain")
    done = json_of(*words, tmp_path / "mended", "--repair")
    assert done["proof"]["passed"]
    kept = json.loads((tmp_path / "mended" / "prunescope-recipe.json").read_text())
    assert kept["repair"] == "ridge"
    # The run's numbers are of the model without it.
    assert "No measured run" in (tmp_path / "mended" / "README.md").read_text()
    plain, mended = (load(str(tmp_path / name)).model.state_dict() for name in ("plain", "mended"))
    differing = {name for name, value in plain.items() if not (value == mended[name]).all()}
    assert differing
    assert all(name.endswith(("o_proj.weight", "down_proj.weight")) for name in differing)
