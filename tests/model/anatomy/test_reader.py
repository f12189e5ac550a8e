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


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_site_counts_the_parameters_of_its_module(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    for site in anatomy.sites:
        module = model.get_submodule(site.module)
        assert site.parameters == sum(p.numel() for p in module.parameters())
    assert anatomy.parameters == model.num_parameters()


def test_tiny_models_cover_every_supported_type() -> None:
    mixtures = {name for name in FAMILIES if "moe" in name or name == "mixtral"}
    assert set(tiny.FAMILIES) == set(FAMILIES) - mixtures


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_are_refused_and_attention_is_not(family: str) -> None:
    model = tiny.tiny_model(family, num_experts=4, moe_intermediate_size=16, num_local_experts=4)
    anatomy = read_anatomy(model)
    assert {site.key.kind for site in anatomy.sites} == {SiteKind.ATTENTION}
    assert {refusal.key.kind for refusal in anatomy.refusals} == {SiteKind.MLP}
    assert "mixture of experts" in anatomy.refusals[0].reason


def test_dense_layers_between_experts_stay_prunable() -> None:
    model = tiny.tiny_model(
        "qwen3_moe", num_experts=4, moe_intermediate_size=16, mlp_only_layers=[1]
    )
    anatomy = read_anatomy(model)
    assert [s.key for s in anatomy.of_kind(SiteKind.MLP)] == [SiteKey(1, SiteKind.MLP)]


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
