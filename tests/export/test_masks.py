"""Masks alone: written small, read back, and applied again to the original weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.export.exporting import export
from pruning_core.export.format import Subject
from pruning_core.export.formats import FORMATS
from pruning_core.export.formats.masks import FILE, read_masks
from pruning_core.planning.plan import Plan
from pruning_core.planning.thinning import thin
from pruning_core.recipe import Pattern, Recipe, Scoring
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.export.subjects import (
    carried,
    check,
    logits,
    model_of,
    plan_of,
    ragged,
    uniform,
    with_plan,
)


def thinned(bench: Workbench, pattern: str, estimator: str) -> Plan:
    recipe = Recipe(
        "tiny", "abc", Scoring(estimator), pattern=Pattern.parse(pattern)
    ).with_sparsity(uniform(bench.anatomy, 0.5))
    return thin(recipe, "abc", bench.model, bench.anatomy, lambda: tiny.tokens(windows=4))


def biased(bench: Workbench) -> Plan:
    plan = plan_of(bench.anatomy, uniform(bench.anatomy, 0.5))
    sites = {
        key: replace(site, bias=torch.randn(bench.anatomy.hidden_size))
        for key, site in plan.sites.items()
    }
    return replace(plan, sites=sites)


PLANS: dict[str, Callable[[Workbench], Plan]] = {
    "units": lambda bench: plan_of(bench.anatomy, ragged(bench.anatomy)),
    "bias": biased,
    "weights": lambda bench: thinned(bench, "unstructured", "wanda"),
    "2:4": lambda bench: thinned(bench, "2:4", "wanda"),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_masks_are_applied_again(name: str, family: str, tmp_path: Path) -> None:
    bench = Workbench(model_of(family))
    subject = with_plan(bench, PLANS[name](bench))
    expected = carried(subject)
    done = export(subject, "masks", tmp_path / "out")
    assert done.proof["read_back"] == "the plan, site by site"
    other = Workbench(model_of(family))
    dense = dict(other.model.named_parameters())
    other.apply(read_masks(tmp_path / "out", other.anatomy, "abc", dense))
    assert torch.equal(logits(other.model), expected)
    weights = sum(parameter.nbytes for parameter in dense.values())
    assert (tmp_path / "out" / FILE).stat().st_size < weights / 8


def test_a_method_that_changes_what_stays_is_refused() -> None:
    bench = Workbench(model_of("llama"))
    subject = with_plan(bench, thinned(bench, "unstructured", "sparsegpt"))
    found, draft = FORMATS["masks"].preflight(subject)
    assert draft is None
    assert "sparsegpt, a repair or training has changed the weights" in found.reason.lower()


def test_thinned_weights_are_plain_and_save_nothing(tmp_path: Path) -> None:
    bench = Workbench(model_of("llama"))
    subject = with_plan(bench, thinned(bench, "2:4", "sparsegpt"))
    found, draft = FORMATS["plain"].preflight(subject)
    assert draft is not None
    assert found.saves == 0
    assert "take as much room as before" in found.notes[0]
    for name in ("padded", "per-layer"):
        assert not FORMATS[name].preflight(subject)[0].possible


@pytest.fixture
def written(tmp_path: Path) -> tuple[Subject, Path]:
    bench = Workbench(model_of("llama"))
    subject = with_plan(bench, PLANS["units"](bench))
    return subject, export(subject, "masks", tmp_path / "out").folder


@pytest.mark.parametrize("damage", ["no file", "cut", "another recipe"])
def test_what_is_damaged_is_told(written: tuple[Subject, Path], damage: str) -> None:
    subject, folder = written
    shelf = subject.shelf
    if damage == "no file":
        (folder / FILE).unlink()
    elif damage == "cut":
        (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-8])
    else:
        (folder / "prunescope-recipe.json").write_text("{}")
    with pytest.raises(PrunescopeError):
        read_masks(folder, shelf.anatomy, "abc", shelf.dense)


def test_masks_of_another_model_are_refused(written: tuple[Subject, Path]) -> None:
    subject, folder = written
    with pytest.raises(PrunescopeError, match="for another model"):
        read_masks(folder, subject.shelf.anatomy, "def", subject.shelf.dense)


@pytest.mark.parametrize("format", ["plain", "padded", "per-layer"])
def test_biases_that_a_repair_adds_go_along(format: str, tmp_path: Path) -> None:
    bench = Workbench(tiny.tiny_model("granite", vocab_size=128).float())
    subject = with_plan(bench, biased(bench))
    assert subject.shelf.adds_bias
    check(subject, format, tmp_path / "out")
