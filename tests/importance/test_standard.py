"""Folding and scales by hand (the tests of FLAP hold the z-scores to the authors' code)."""

from __future__ import annotations

from dataclasses import replace

import torch

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import SiteScores
from pruning_core.importance.standard import folded, output_weight, standardised, unit_mean
from pruning_core.model.anatomy import read_anatomy
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

MODEL = tiny.tiny_model()
ANATOMY = read_anatomy(MODEL)
ATTENTION = ANATOMY.by_key[SiteKey(1, SiteKind.ATTENTION)]
MLP = ANATOMY.by_key[SiteKey(1, SiteKind.MLP)]


def test_consecutive_columns_are_a_head_and_consecutive_heads_a_group() -> None:
    scores = folded(ATTENTION, torch.arange(72.0))
    assert scores.heads is not None
    assert scores.heads.tolist() == [8 * head + 3.5 for head in range(9)]
    assert scores.units.tolist() == [24 * group + 11.5 for group in range(3)]
    assert folded(MLP, torch.arange(40.0)).heads is None


def test_z_scores_are_taken_over_columns_before_they_are_folded() -> None:
    columns = torch.randn(72, generator=torch.Generator().manual_seed(0)).square()
    z = (columns - columns.mean()) / columns.std()
    scores = standardised(ATTENTION, columns)
    torch.testing.assert_close(scores.heads, z.view(9, 8).mean(1))
    torch.testing.assert_close(scores.units, z.view(3, 24).mean(1))


def test_columns_that_are_all_alike_are_neither_good_nor_bad() -> None:
    assert torch.equal(standardised(MLP, torch.full((40,), 0.5)).units, torch.zeros(40))


def test_mean_one_over_units_and_over_heads_and_ones_where_nothing_ranks() -> None:
    scores = unit_mean(SiteScores(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0, 6.0, 4.0])))
    assert scores.units.tolist() == [0.5, 1.5]
    assert scores.heads is not None
    assert scores.heads.tolist() == [0.5, 1.0, 1.5, 1.0]
    assert unit_mean(SiteScores(torch.zeros(3))).units.tolist() == [1, 1, 1]


def test_the_weight_is_that_of_the_output_projection() -> None:
    evidence = Evidence(MODEL, ANATOMY, lambda _count, _tick: tiny.tokens())
    attention, mlp = MODEL.model.layers[1].self_attn, MODEL.model.layers[1].mlp
    assert torch.equal(output_weight(evidence, ATTENTION), attention.o_proj.weight)
    assert torch.equal(output_weight(evidence, MLP), mlp.down_proj.weight)


def test_a_weight_that_is_kept_transposed_is_turned() -> None:
    evidence = Evidence(MODEL, ANATOMY, lambda _count, _tick: tiny.tokens())
    turned = tuple(
        replace(c, axis=0) if c.tensor.endswith("down_proj.weight") else c for c in MLP.couplings
    )
    found = output_weight(evidence, replace(MLP, couplings=turned))
    assert torch.equal(found, MODEL.model.layers[1].mlp.down_proj.weight.T)
