from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Part, read_anatomy
from pruning_core.model.anatomy.families import FAMILIES
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_site_of_every_family_is_found(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    assert not anatomy.refusals
    assert [site.key for site in anatomy.sites] == [
        SiteKey(layer, kind) for layer in range(3) for kind in SiteKind
    ]
    attention, mlp = anatomy.sites[:2]
    assert attention.counts == {Part.QUERY_HEAD: 9, Part.KV_HEAD: 3}
    assert mlp.counts == {Part.CHANNEL: 40}


@pytest.mark.parametrize(
    ("name", "heads", "groups"),
    [
        ("llama, every head its own group", 9, 9),
        ("phi3, every head its own group", 9, 9),
        ("gemma3_text, one group", 4, 1),
        ("phi3, one group", 4, 1),
    ],
)
def test_heads_and_groups_of_other_shapes(name: str, heads: int, groups: int) -> None:
    site = read_anatomy(tiny.tiny_model(name)).sites[0]
    assert site.counts == {Part.QUERY_HEAD: heads, Part.KV_HEAD: groups}
    assert site.heads_per_unit == heads // groups


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_site_counts_the_parameters_of_its_module(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    for site in anatomy.sites:
        module = model.get_submodule(site.module)
        assert site.parameters == sum(p.numel() for p in module.parameters())
    assert anatomy.parameters == model.num_parameters()


def test_tiny_models_cover_every_supported_type() -> None:
    assert {*tiny.FAMILIES, *tiny.MIXTURES} == set(FAMILIES)


@pytest.mark.parametrize("family", tiny.MIXTURES)
def test_experts_are_refused_and_attention_is_not(family: str) -> None:
    anatomy = read_anatomy(tiny.tiny_model(family))
    assert {site.key.kind for site in anatomy.sites} == {SiteKind.ATTENTION}
    assert {refusal.key.kind for refusal in anatomy.refusals} == {SiteKind.MLP}
    assert "mixture of experts" in anatomy.refusals[0].reason


def test_dense_layers_between_experts_stay_prunable() -> None:
    anatomy = read_anatomy(tiny.tiny_model("qwen3_moe", mlp_only_layers=[1]))
    assert [s.key for s in anatomy.of_kind(SiteKind.MLP)] == [SiteKey(1, SiteKind.MLP)]


ATTENTION = 2 * (9 * 8 * 36) + 2 * (3 * 8 * 36)
"""Weights of query and output, key and value."""
HEAD = 97 * 36
MLP = 3 * 40 * 36


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("llama", {"tie_word_embeddings": False}, 3 * (ATTENTION + MLP) + HEAD),
        ("llama", {"tie_word_embeddings": True}, 3 * (ATTENTION + MLP) + HEAD),
        ("phi3", {}, 3 * (ATTENTION + MLP) + HEAD),
        # Embeddings that are scaled are a class of their own, and nothing of the vision tower runs.
        ("gemma3_text", {}, 3 * (ATTENTION + MLP) + HEAD),
        ("gemma3", {}, 3 * (ATTENTION + MLP) + HEAD),
        # The router has a row for each of 4 experts, of which a token meets 2.
        ("mixtral", {}, 3 * (ATTENTION + 4 * 36 + 2 * MLP) + HEAD),
        ("mixtral", {"num_experts_per_tok": 1}, 3 * (ATTENTION + 4 * 36 + MLP) + HEAD),
        ("qwen3_moe", {}, 3 * (ATTENTION + 4 * 36 + 2 * 3 * 16 * 36) + HEAD),
        (
            "qwen3_moe",
            {"mlp_only_layers": [1]},
            3 * ATTENTION + 2 * (4 * 36 + 2 * 3 * 16 * 36) + MLP + HEAD,
        ),
        # A shared expert and its gate of one row, beside the routed ones.
        ("qwen2_moe", {}, 3 * (ATTENTION + 4 * 36 + 2 * 3 * 16 * 36 + 3 * 24 * 36 + 36) + HEAD),
    ],
)
def test_weights_that_a_token_meets(name: str, changes: dict[str, object], expected: int) -> None:
    assert read_anatomy(tiny.tiny_model(name, **changes)).weights_per_token == expected


def test_unknown_family_is_refused_with_what_is_known() -> None:
    model = tiny.tiny_model()
    model.config.model_type = "mamba"
    with pytest.raises(PrunescopeError, match=r"'mamba' are not supported.*qwen3"):
        read_anatomy(model)


def test_a_tensor_nobody_described_refuses_its_site_only() -> None:
    model = tiny.tiny_model()
    model.model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(9))
    anatomy = read_anatomy(model)
    assert [refusal.key for refusal in anatomy.refusals] == [SiteKey(1, SiteKind.ATTENTION)]
    assert "sinks" in anatomy.refusals[0].reason


def test_a_projection_that_is_not_plain_linear_is_refused() -> None:
    class Quantised(nn.Linear):
        pass

    model = tiny.tiny_model()
    model.model.layers[0].mlp.up_proj = Quantised(36, 40)
    (refusal,) = read_anatomy(model).refusals
    assert "up_proj is a Quantised" in refusal.reason


def test_shapes_that_contradict_the_description_are_refused() -> None:
    model = tiny.tiny_model()
    model.model.layers[0].mlp.gate_proj = nn.Linear(36, 39)
    (refusal,) = read_anatomy(model).refusals
    assert "39 gate_proj rows where 40" in refusal.reason
