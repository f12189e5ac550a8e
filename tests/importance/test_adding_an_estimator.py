"""The guide beside the estimators: its examples run, and appear wherever estimators do."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning_core.importance import estimators as folder_of_estimators
from pruning_core.importance import registry
from pruning_core.importance.registry import Estimator, estimators
from pruning_core.recipe import PatternKind
from tests import tiny
from tests.importance import test_estimators
from tests.planning import test_thinning

GUIDE = Path(str(folder_of_estimators.__file__)).with_name("README.md")
EXAMPLES = dict(re.findall(r"### `(\w+\.py)`\n\n```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))
"""The text of every complete file in the guide, by the name it goes by there."""

UNITS, WEIGHTS = "weighted_activation.py", "layer_error.py"
QUICK = ("--windows", "3", "--length", "32", "--protocol", "probe", "--limit", "2")


def add(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Estimator:
    """Save an example as a file and import it; what it registers is gone after the test."""
    monkeypatch.setattr(registry, "_ESTIMATORS", dict(registry._ESTIMATORS))
    before = set(estimators())
    path = folder / example
    path.write_text(EXAMPLES[example])
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    found.loader.exec_module(importlib.util.module_from_spec(found))
    (new,) = set(estimators()) - before
    return new


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estimator:
    return add(UNITS, tmp_path, monkeypatch)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estimator:
    return add(WEIGHTS, tmp_path, monkeypatch)


def battery(tests: type) -> list[str]:
    """Return the names of the tests that every estimator has to pass."""
    return [name for name in vars(tests) if name.startswith("test_")]


def test_there_is_one_example_of_each_kind_and_neither_exists_already() -> None:
    assert set(EXAMPLES) == {UNITS, WEIGHTS}
    assert GUIDE.read_text().count("```python") == 2
    assert not any(GUIDE.with_name(name).exists() for name in EXAMPLES)


def test_each_is_listed_under_the_patterns_it_follows(units: Estimator) -> None:
    assert units in estimators(PatternKind.STRUCTURED)
    assert units not in estimators(PatternKind.UNSTRUCTURED)


def test_one_of_weights_is_listed_under_both_patterns_of_weights(weights: Estimator) -> None:
    assert weights in estimators(PatternKind.UNSTRUCTURED)
    assert weights in estimators(PatternKind.N_OF_M)
    assert weights not in estimators(PatternKind.STRUCTURED)


@pytest.mark.parametrize("example", [UNITS, WEIGHTS])
def test_the_command_line_lists_it(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str, str]],
    json_of: Callable[..., dict[str, Any]],
) -> None:
    method = add(example, tmp_path, monkeypatch)
    code, out, _ = run("methods")
    assert code == 0
    assert method.name in out
    listed = json_of("methods")["estimators"][method.name]
    assert listed["summary"] == method.summary
    assert set(listed["parameters"]) == {parameter.name for parameter in method.parameters}


def test_the_command_line_prunes_units_by_it(
    units: Estimator, folder: Path, json_of: Callable[..., dict[str, Any]]
) -> None:
    report = json_of("prune", folder, "--estimator", units.name, "--sparsity", "0.3", *QUICK)
    assert report["pruned"]["estimator"] == units.name
    assert report["pruned"]["sparsity_of_prunable"] == pytest.approx(0.3, abs=0.01)
    assert report["pruned"]["quality"]["perplexity"] != report["dense"]["quality"]["perplexity"]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_the_command_line_prunes_weights_by_it(
    weights: Estimator, pattern: str, folder: Path, json_of: Callable[..., dict[str, Any]]
) -> None:
    how = ("--pattern", pattern, "--sparsity", "0.5", "--set", "compare=rows")
    report = json_of("prune", folder, "--estimator", weights.name, *how, *QUICK)
    assert report["pruned"]["estimator"] == weights.name
    assert report["pruned"]["sparsity_of_prunable"] == pytest.approx(0.5, abs=0.01)
    assert report["recipe"]["scoring"]["params"] == {"compare": "rows"}


@pytest.mark.parametrize("model_type", test_estimators.MODELS)
@pytest.mark.parametrize("test", battery(test_estimators.TestEvery))
def test_it_passes_the_battery_of_units(units: Estimator, test: str, model_type: str) -> None:
    getattr(test_estimators.TestEvery(), test)(units.name, model_type)


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("test", battery(test_thinning.TestEvery))
def test_it_passes_the_battery_of_weights(weights: Estimator, test: str, family: str) -> None:
    getattr(test_thinning.TestEvery(), test)(weights.name, family)


def test_work_on_units_can_be_cancelled_and_all_is_said(units: Estimator) -> None:
    test_estimators.test_long_work_can_be_cancelled(units.name)
    test_estimators.test_defaults_are_allowed_values_and_everything_is_said(units.name)


def test_work_on_weights_can_be_cancelled_and_all_is_said(weights: Estimator) -> None:
    test_thinning.test_it_can_be_cancelled_anywhere(weights.name)
    test_estimators.test_defaults_are_allowed_values_and_everything_is_said(weights.name)


def test_afterwards_it_is_gone() -> None:
    assert not {"weighted-activation", "layer-error"} & {method.name for method in estimators()}
