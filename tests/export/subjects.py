"""Tiny pruned models of every family, as an export is given them, and what was written."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pruning_core.export.format import Draft, Loading, Subject
from pruning_core.export.formats import format_named
from pruning_core.export.shelf import Shelf
from pruning_core.model.anatomy import Anatomy
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map
from tests.model import tiny_checkpoints

FAMILIES = [*tiny.FAMILIES, *tiny.MIXTURES]
CLOSE = 1e-4
"""What fp32 rounding may move the logits of these models by, which are about 10: processors sum in
different orders, and one of them came to 2.03e-5 where others stay below 2e-5."""

Sparsity = Mapping[SiteKey, float]


def model_of(name: str) -> PreTrainedModel:
    """Return a tiny model in fp32 whose buffers are as a loader makes them."""
    model = tiny.tiny_model(name, vocab_size=tiny_checkpoints.VOCABULARY)
    fresh = type(model)(model.config).to(torch.float32).eval().requires_grad_(False)
    fresh.load_state_dict(model.state_dict())
    return fresh


def subject_of(model: PreTrainedModel, sparsity: Sparsity, source: Path | None = None) -> Subject:
    """Return a model and a plan of random scores as an export is given them."""
    bench = Workbench(model)
    return with_plan(bench, plan_of(bench.anatomy, sparsity), source)


def with_plan(bench: Workbench, plan: Plan, source: Path | None = None) -> Subject:
    return Subject(Shelf.of(bench, plan), tiny_checkpoints.tokenizer(), "tiny", "abc", source)


def plan_of(anatomy: Anatomy, sparsity: Sparsity) -> Plan:
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    return make_plan(recipe, random_map(anatomy), anatomy)


def uniform(anatomy: Anatomy, share: float = 0.4) -> dict[SiteKey, float]:
    return {site.key: share for site in anatomy.sites}


def ragged(anatomy: Anatomy, seed: int = 0) -> dict[SiteKey, float]:
    """Return a width of its own for every site."""
    draw = random.Random(seed)
    return {site.key: 0.85 * draw.random() for site in anatomy.sites}


def without(*layers: int) -> dict[SiteKey, float]:
    """Return the sparsities at which whole layers go."""
    return {SiteKey(layer, kind): 1.0 for layer in layers for kind in SiteKind}


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny.tokens()).logits


def carried(subject: Subject) -> torch.Tensor:
    """Return what the pruned model in memory computes."""
    with subject.shelf.carrying():
        found = logits(subject.shelf.model)
    subject.shelf.bench.restore()
    return found


def loaded(folder: Path, *, trust: bool = False, **options: object) -> PreTrainedModel:
    """Return what stock transformers loads from a folder; nothing of it is made up."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        trust_remote_code=trust,
        output_loading_info=True,
        local_files_only=True,
        **options,
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    model.set_experts_implementation("eager") if hasattr(model, "set_experts_implementation") else 0
    return model.eval()


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().max().item()


def written(subject: Subject, name: str, folder: Path, largest: int = 10**9) -> Draft:
    """Write what a format has of its own, without card and proof."""
    _found, draft = format_named(name).demand(subject)
    folder.mkdir()
    with subject.shelf.carrying():
        draft.write(folder, largest, lambda *_told: None)
        draft.finish(folder)
    subject.shelf.bench.restore()
    return draft


def check(subject: Subject, name: str, folder: Path) -> None:
    """Write, load with stock transformers, compare logits; sizes are those that were told."""
    draft = written(subject, name, folder)
    trust = draft.loading is Loading.TRUSTED
    assert apart(logits_of(folder, trust), carried(subject)) <= CLOSE
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert draft.bytes <= size < draft.bytes + 40_000
    assert not list(folder.glob("*.bin"))


def logits_of(folder: Path, trust: bool) -> torch.Tensor:
    with torch.no_grad():
        return loaded(folder, trust=trust)(tiny.tokens()).logits
