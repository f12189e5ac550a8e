"""The demo model from end to end: scored, pruned, measured, resumed, and dense again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pruning_core.calibration import Split, load_text, measurement_windows
from pruning_core.evaluation.live import LiveEvaluator
from pruning_core.evaluation.protocol import protocol
from pruning_core.importance.evidence import evidence_for
from pruning_core.importance.scoring import score
from pruning_core.model.loading import LoadedModel, load
from pruning_core.pipeline import prune
from pruning_core.planning.allocation import uniform, unit_places
from pruning_core.planning.plan import make_plan
from pruning_core.recipe import Calibration, Recipe, Scoring
from pruning_core.surgery.workbench import Workbench

pytestmark = pytest.mark.demo

SCORING = Scoring("fine", (), Calibration("embedded", windows=2, length=64))


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load("demo", device="cpu")


@torch.no_grad()
def logits(demo: LoadedModel) -> torch.Tensor:
    ids = demo.tokenizer("The quick brown fox jumps over", return_tensors="pt").input_ids
    return demo.model(ids, use_cache=False).logits


def test_a_fifth_less_costs_quality_and_leaves_the_model_dense(demo: LoadedModel) -> None:
    before = logits(demo)
    bench = Workbench(demo.model)
    recipe = Recipe("demo", demo.fingerprint, SCORING).with_sparsity(
        uniform(unit_places(bench.anatomy), 0.2)
    )
    run = prune(demo, recipe, replace(protocol("probe"), limit=2))
    pruned = run.entries[0]
    assert not run.leaked
    # A real language model reads English; a fifth less of it reads it worse, but reads it still.
    assert 5 < run.dense_quality.perplexity < 40
    assert run.dense_quality.perplexity < pruned.quality.perplexity < 400
    assert pruned.quality.accuracy < run.dense_quality.accuracy
    assert pruned.plan.sparsity == pytest.approx(0.2, abs=1e-3)
    assert torch.equal(logits(demo), before)


def test_resumed_equals_full(demo: LoadedModel) -> None:
    before = logits(demo)
    bench = Workbench(demo.model)
    text = load_text("embedded", Split.MEASUREMENT)
    windows = measurement_windows(text, demo.tokenizer, length=128, limit=2)
    evidence = evidence_for(demo.model, demo.tokenizer, bench.anatomy, SCORING.calibration)
    scores = score(SCORING, evidence, demo.fingerprint)
    everywhere = uniform(unit_places(bench.anatomy), 0.3)
    notes: list[str] = []

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        notes.append(note)

    live = LiveEvaluator(bench, windows)
    dense = live.measure(None)
    for lowest in (29, 15, 0, 22):
        above = {key: value for key, value in everywhere.items() if key.layer >= lowest}
        recipe = Recipe("demo", demo.fingerprint, SCORING).with_sparsity(above)
        plan = make_plan(recipe, scores, bench.anatomy)
        notes.clear()
        resumed = live.measure(plan, tick)
        assert notes[0] == f"from layer {lowest}"
        assert resumed == LiveEvaluator(bench, windows).measure(plan)
        assert resumed != dense
    assert live.measure(None) == dense
    assert torch.equal(logits(demo), before)
