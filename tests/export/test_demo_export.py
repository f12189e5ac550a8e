"""The demo model, exported with a width for every layer and proven."""

from __future__ import annotations

from pathlib import Path

import pytest

from pruning_core.export.exporting import export
from pruning_core.export.format import Subject
from pruning_core.export.shelf import Shelf
from pruning_core.model.loading import load
from pruning_core.planning.plan import make_plan
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests.export.subjects import ragged
from tests.maps import random_map


@pytest.mark.demo
def test_the_demo_model_has_a_width_for_every_layer(tmp_path: Path) -> None:
    demo = load("demo")
    bench = Workbench(demo.model)
    wanted = ragged(bench.anatomy) | {
        SiteKey(0, SiteKind.ATTENTION): 1.0,
        SiteKey(5, SiteKind.ATTENTION): 1.0,
        SiteKey(7, SiteKind.MLP): 1.0,
    }
    recipe = Recipe("demo", demo.fingerprint).with_sparsity(wanted)
    plan = make_plan(recipe, random_map(bench.anatomy, 0, demo.fingerprint), bench.anatomy)
    subject = Subject(Shelf.of(bench, plan), demo.tokenizer, "demo", demo.fingerprint)
    done = export(subject, "per-layer", tmp_path / "out")
    assert done.proof["max_logit_difference"] == 0
    assert done.proof["tokens_equal"]
    assert done.preflight.saves > 0.25
