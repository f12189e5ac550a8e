from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning_core.errors import PrunescopeError
from pruning_core.model.anatomy import Part, read_anatomy
from pruning_core.model.anatomy.families import FAMILIES
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

OWN_GROUP = {"bloom", "opt", "gpt2", "gpt_neox", "baichuan"}
"""Families in which key/value heads are never shared."""


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_site_of_every_family_is_found(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    assert not anatomy.refusals
    assert [site.key for site in anatomy.sites] == [
        SiteKey(layer, kind) for layer in range(3) for kind in SiteKind
    ]
    attention, mlp = anatomy.sites[:2]
    assert attention.counts == {Part.QUERY_HEAD: 9, Part.KV_HEAD: 9 if family in OWN_GROUP else 3}
    assert mlp.counts == {Part.CHANNEL: 4 * 72 if family == "bloom" else 40}


@pytest.mark.parametrize(
    ("name", "heads", "groups"),
    [
        ("llama, every head its own group", 9, 9),
        ("phi3, every head its own group", 9, 9),
        ("gemma3_text, one group", 4, 1),
        ("phi3, one group", 4, 1),
        ("falcon, one group", 9, 1),
        ("falcon, alibi", 9, 9),
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
        modules = [model.get_submodule(name) for name in site.replaced]
        assert site.parameters == sum(p.numel() for m in modules for p in m.parameters())
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


def test_every_matrix_of_a_layer_is_listed() -> None:
    listed = read_anatomy(tiny.tiny_model()).linears
    assert [(m.module.removeprefix("model.layers.1."), m.channel_axis) for m in listed[7:14]] == [
        ("self_attn.q_proj", None),
        ("self_attn.k_proj", None),
        ("self_attn.v_proj", None),
        ("self_attn.o_proj", None),
        ("mlp.gate_proj", 0),
        ("mlp.up_proj", 0),
        ("mlp.down_proj", 1),
    ]
    assert len(listed) == 21
    assert {m.key for m in listed[7:11]} == {SiteKey(1, SiteKind.ATTENTION)}
    assert [n for n, m in enumerate(listed[7:14]) if m.is_output] == [3, 6]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_matrices_are_those_of_the_layers_and_lie_as_they_say(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    prefix = f"{anatomy.layers_path}."
    assert {matrix.tensor for matrix in anatomy.linears} == {
        name for name, p in model.named_parameters() if p.ndim == 2 and name.startswith(prefix)
    }
    for matrix in anatomy.linears:
        assert f"{matrix.module}.weight" == matrix.tensor
        weight = model.get_parameter(matrix.tensor)
        assert matrix.size == weight.numel()
        weight = weight.T if matrix.transposed else weight
        if matrix.channel_axis is not None:
            stacked = 2 if "gate_up" in matrix.module else 1
            assert weight.shape[matrix.channel_axis] == stacked * anatomy.by_key[matrix.key].units
        site = anatomy.by_key[matrix.key]
        assert matrix.is_output == (matrix.module == site.output)


@pytest.mark.parametrize(("family", "transposed"), [("gpt2", True), ("bloom", False)])
def test_only_conv1d_lies_the_other_way_round(family: str, transposed: bool) -> None:
    anatomy = read_anatomy(tiny.tiny_model(family))
    assert {matrix.transposed for matrix in anatomy.linears} == {transposed}
    assert [m.channel_axis for m in anatomy.linears[:4]] == [None, None, 0, 1]
    # Stored [in, out], the rows of a matrix are its second axis.
    up, down = anatomy.sites[1].matrices
    assert (up.axis, down.axis) == ((1, 0) if transposed else (0, 1))


def test_matrices_of_a_refused_site_are_listed_and_experts_are_not() -> None:
    model = tiny.tiny_model("mixtral")
    model.model.layers[1].self_attn.sinks = nn.Parameter(torch.zeros(9))
    anatomy = read_anatomy(model)
    assert SiteKey(1, SiteKind.ATTENTION) not in anatomy.by_key
    assert [(m.key.layer, m.key.kind) for m in anatomy.linears] == [
        (layer, SiteKind.ATTENTION) for layer in range(3) for _ in range(4)
    ]


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


def test_a_switch_that_goes_past_the_projections_is_refused() -> None:
    model = tiny.tiny_model("bloom", slow_but_exact=True)
    with pytest.raises(PrunescopeError, match=r"slow_but_exact.*slices"):
        read_anatomy(model)


def test_a_subclass_passes_in_its_own_family_only() -> None:
    class FalconLinear(nn.Linear):
        pass

    model = tiny.tiny_model()
    model.model.layers[0].mlp.up_proj = FalconLinear(36, 40)
    (refusal,) = read_anatomy(model).refusals
    assert "up_proj is a FalconLinear" in refusal.reason


def test_groups_whose_rows_lie_together_leave_whole() -> None:
    several = read_anatomy(tiny.tiny_model("falcon")).sites[0]
    assert [(w.units, w.heads) for w in several.ladder] == [(3, 3), (2, 3), (1, 3), (0, 0)]
    one = read_anatomy(tiny.tiny_model("falcon, one group")).sites[0]
    assert [(w.units, w.heads) for w in one.ladder[:3]] == [(1, 9), (1, 8), (1, 7)]


def test_shapes_that_contradict_the_description_are_refused() -> None:
    model = tiny.tiny_model()
    model.model.layers[0].mlp.gate_proj = nn.Linear(36, 39)
    (refusal,) = read_anatomy(model).refusals
    assert "39 gate_proj rows where 40" in refusal.reason
