from __future__ import annotations

import dataclasses

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.map import ImportanceMap, SiteScores
from pruning_core.model.anatomy import Anatomy, Part, read_anatomy
from pruning_core.planning.plan import make_plan
from pruning_core.planning.selection import select
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind
from tests import tiny
from tests.maps import random_map

MLP0, ATTENTION2 = SiteKey(0, SiteKind.MLP), SiteKey(2, SiteKind.ATTENTION)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(tiny.tiny_model())


def recipe(**sparsity: float) -> Recipe:
    return Recipe("tiny", "abc").with_sparsity(
        {SiteKey.parse(name.replace("_", ".")): value for name, value in sparsity.items()}
    )


def test_selection_keeps_the_best_and_breaks_ties_by_index(anatomy: Anatomy) -> None:
    site = anatomy.by_key[MLP0]
    scores = torch.zeros(40)
    scores[[7, 30]] = 5.0
    kept = select(site, SiteScores(scores), site.width(4, 0))
    assert kept[Part.CHANNEL].tolist() == [0, 1, 7, 30]


def test_selection_keeps_heads_inside_kept_groups(anatomy: Anatomy) -> None:
    site = anatomy.by_key[ATTENTION2]
    scores = SiteScores(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([9.0, 9, 9, 1, 3, 2, 5, 4, 6]))
    kept = select(site, scores, site.width(2, 2))
    assert kept[Part.KV_HEAD].tolist() == [1, 2]
    assert kept[Part.QUERY_HEAD].tolist() == [4, 5, 6, 8]


def test_prefixes_agree_below_the_first_difference(anatomy: Anatomy) -> None:
    scores = random_map(anatomy)
    one = make_plan(recipe(**{"0_mlp": 0.5, "1_mlp": 0.5}), scores, anatomy)
    two = make_plan(recipe(**{"0_mlp": 0.5, "1_attention": 0.25, "1_mlp": 0.5}), scores, anatomy)
    assert one.prefixes[:2] == two.prefixes[:2]
    assert one.prefixes[2] != two.prefixes[2]
    assert one.prefixes[-1] != two.prefixes[-1]


def test_a_snapped_zero_is_dense(anatomy: Anatomy) -> None:
    scores = random_map(anatomy)
    dense = make_plan(recipe(), scores, anatomy)
    assert make_plan(recipe(**{"1_attention": 0.05}), scores, anatomy).prefixes == dense.prefixes
    assert dense.removed_parameters == 0


def test_counts_are_of_the_snapped_plan(anatomy: Anatomy) -> None:
    plan = make_plan(recipe(**{"0_mlp": 0.5}), random_map(anatomy), anatomy)
    site = anatomy.by_key[MLP0]
    assert plan.sites[MLP0].width.units == 20
    # Two bias entries and three vectors of the hidden size leave with each channel.
    assert plan.removed_parameters == 20 * (3 * 36 + 2)
    assert plan.sparsity == plan.removed_parameters / anatomy.prunable_parameters
    assert plan.sites[MLP0].width.parameters == site.parameters - plan.removed_parameters


def test_operations_count_two_per_weight_and_attention(anatomy: Anatomy) -> None:
    scores = random_map(anatomy)
    dense = make_plan(recipe(), scores, anatomy).cost(1000, tokens=10)
    assert dense.operations == 2 * anatomy.weights_per_token + 2 * (3 * 9 * 8) * 10
    half = make_plan(recipe(**{"0_mlp": 0.5}), scores, anatomy).cost(1000, tokens=10)
    assert dense.operations - half.operations == 2 * 20 * 3 * 36
    assert dense.bytes - half.bytes == 8 * 20 * (3 * 36 + 2)


def test_recipe_for_another_model_is_refused(anatomy: Anatomy) -> None:
    other = dataclasses.replace(recipe(), fingerprint="other")
    with pytest.raises(PrunescopeError, match="another model"):
        make_plan(other, random_map(anatomy), anatomy)


def test_recipe_with_a_layer_too_many_is_refused(anatomy: Anatomy) -> None:
    with pytest.raises(PrunescopeError, match="3 layers"):
        make_plan(recipe(**{"3_mlp": 0.5}), random_map(anatomy), anatomy)


def test_recipe_that_prunes_a_refused_site_says_why() -> None:
    anatomy = read_anatomy(tiny.tiny_model("qwen3_moe"))
    scores = ImportanceMap("abc", Scoring(), random_map(anatomy).sites)
    with pytest.raises(PrunescopeError, match="mixture of experts"):
        make_plan(recipe(**{"0_mlp": 0.5}), scores, anatomy)
