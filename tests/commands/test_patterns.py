"""Single weights, allocations and repair on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MEASURED = ("--protocol", "probe", "--limit", "2")
QUICK = ("--windows", "3", "--length", "32")


@pytest.fixture
def pruned(folder: Path, json_of: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Prune the tiny model and return the report."""
    return lambda *words: json_of("prune", folder, *QUICK, *MEASURED, *words)


@pytest.mark.parametrize("estimator", ["wanda", "sparsegpt", "magnitude", "pruner-zero", "wanda++"])
def test_single_weights_leave(pruned: Callable[..., dict[str, Any]], estimator: str) -> None:
    run = pruned("--pattern", "unstructured", "--estimator", estimator, "--sparsity", "0.5")
    entry = run["pruned"]
    assert entry["sparsity_of_prunable"] == pytest.approx(0.5, abs=0.01)
    assert entry["sparsity_of_linears"] == entry["sparsity_of_prunable"]
    assert entry["sparsity_of_all"] < 0.5
    assert entry["cost"]["bytes"] == run["dense"]["cost"]["bytes"]
    assert entry["quality"]["perplexity"] != run["dense"]["quality"]["perplexity"]
    assert entry["peak_memory_bytes"]["main"] > 1e7


def test_n_of_m_brings_its_own_sparsity_and_its_usual_estimator(
    pruned: Callable[..., dict[str, Any]],
) -> None:
    run = pruned("--pattern", "2:4")
    assert run["pruned"]["estimator"] == "wanda"
    assert run["pruned"]["pattern"] == "2:4"
    assert run["pruned"]["sparsity_of_prunable"] == 0.5


def test_a_recipe_of_single_weights_repeats(
    pruned: Callable[..., dict[str, Any]],
    folder: Path,
    tmp_path: Path,
    json_of: Callable[..., dict[str, Any]],
) -> None:
    recipe = tmp_path / "recipe.json"
    words = ("--pattern", "unstructured", "--set", "prefix=dense", "--save-recipe", recipe)
    first = pruned(*words)
    again = json_of("prune", folder, "--recipe", recipe, *MEASURED)
    assert again["digest"] == first["digest"]
    assert again["pruned"]["quality"] == first["pruned"]["quality"]


@pytest.mark.parametrize(
    ("allocation", "estimator"), [("ranking", "flap"), ("ranking", "fine"), ("owl", "fine")]
)
def test_sites_differ_and_the_whole_is_met(
    pruned: Callable[..., dict[str, Any]], allocation: str, estimator: str
) -> None:
    run = pruned("--allocation", allocation, "--estimator", estimator, "--sparsity", "0.3")
    assert run["pruned"]["sparsity_of_prunable"] == pytest.approx(0.3, abs=0.01)
    shares = [kinds["mlp"] for kinds in run["recipe"]["sparsity"].values() if "mlp" in kinds]
    assert len(set(shares)) > 1


def test_owl_shares_out_single_weights_too(pruned: Callable[..., dict[str, Any]]) -> None:
    run = pruned("--pattern", "unstructured", "--allocation", "owl", "--sparsity", "0.5")
    assert run["pruned"]["sparsity_of_prunable"] == pytest.approx(0.5, abs=0.03)
    layers = run["recipe"]["sparsity"]
    assert len({kinds["mlp"] for kinds in layers.values()}) > 1


def test_whole_layers_leave(pruned: Callable[..., dict[str, Any]]) -> None:
    run = pruned("--allocation", "layers", "--estimator", "block-influence", "--sparsity", "0.5")
    for kinds in run["recipe"]["sparsity"].values():
        assert kinds == {"attention": 1.0, "mlp": 1.0}


def test_a_bias_repairs_what_flap_takes(pruned: Callable[..., dict[str, Any]]) -> None:
    plain = pruned("--estimator", "flap", "--sparsity", "0.3")
    repaired = pruned("--estimator", "flap", "--sparsity", "0.3", "--repair", "bias")
    assert repaired["recipe"]["repair"] == "bias"
    assert repaired["pruned"]["quality"] != plain["pruned"]["quality"]
    assert repaired["pruned"]["cost"]["parameters"] > plain["pruned"]["cost"]["parameters"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pattern", "4:2"), "'4:2' is not a pattern"),
        (("--pattern", "2:4", "--estimator", "fine"), "cannot choose what leaves"),
        (("--estimator", "wanda"), "cannot choose what leaves under the pattern 'structured'"),
        (("--pattern", "2:7"), "choose an m that divides"),
        (("--allocation", "rank"), "Unknown allocation 'rank'"),
        (("--repair", "glue"), "Unknown repair 'glue'"),
        (
            ("--repair", "bias", "--estimator", "wanda", "--pattern", "2:4"),
            "stands in for whole units",
        ),
        (
            ("--repair", "ridge:prefix=dense", "--estimator", "wanda", "--pattern", "2:4"),
            "has no prefix of its own",
        ),
        (("--repair", "ridge:damping=0"), "damping of the repair is 0.0"),
        (("--repair", "ridge:prefix=none"), "Unknown prefix of the repair"),
        (("--repair", "ridge:windows=few"), "is no setting of a repair"),
        (("--allocation", "layers", "--estimator", "fine"), "does not score layers"),
        (("--allocation", "ranking", "--pattern", "2:4"), "choose 'uniform' or 'owl'"),
        (
            ("--pattern", "unstructured", "--beside", "fine", "--estimator", "wanda"),
            "cannot choose what leaves",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    folder: Path, refused: Callable[..., str], words: tuple[str, ...], said: str
) -> None:
    assert said in refused("prune", folder, *QUICK, *MEASURED, *words)
