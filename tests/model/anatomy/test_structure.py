from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.model.anatomy import Coupling, HeadCount, Part, Segment, Site, most_ends
from pruning_core.recipe import SiteKey, SiteKind


def attention(groups: int, per_group: int, width: int = 4, hidden: int = 16) -> Site:
    query = Segment(Part.QUERY_HEAD, groups * per_group, width)
    shared = Segment(Part.KV_HEAD, groups, width)
    return Site(
        SiteKey(0, SiteKind.ATTENTION),
        "a",
        "a.o",
        (
            Coupling("a.q.weight", 0, hidden, (query,)),
            Coupling("a.k.weight", 0, hidden, (shared,)),
            Coupling("a.v.weight", 0, hidden, (shared,)),
            Coupling("a.o.weight", 1, hidden, (query,)),
        ),
    )


def mlp(channels: int, hidden: int = 16) -> Site:
    segment = (Segment(Part.CHANNEL, channels, 1),)
    return Site(
        SiteKey(0, SiteKind.MLP),
        "m",
        "m.down",
        tuple(
            Coupling(name, axis, hidden, segment) for name, axis in (("g", 0), ("u", 0), ("d", 1))
        ),
    )


def test_ladder_of_the_demo_model() -> None:
    steps = [(w.units, w.heads, round(w.sparsity, 3)) for w in attention(3, 3).ladder]
    assert steps == [
        (3, 3, 0.0),
        (3, 2, 0.25),
        (2, 3, 0.333),
        (2, 2, 0.5),
        (1, 3, 0.667),
        (1, 2, 0.75),
        (1, 1, 0.833),
        (0, 0, 1.0),
    ]


def test_one_group_still_loses_heads_one_by_one() -> None:
    assert [(w.units, w.heads) for w in attention(1, 4).ladder] == [
        (1, 4),
        (1, 3),
        (1, 2),
        (1, 1),
        (0, 0),
    ]


def test_without_sharing_groups_are_heads() -> None:
    assert [w.units for w in attention(4, 1).ladder] == [4, 3, 2, 1, 0]


def test_what_cannot_go_altogether_keeps_a_unit() -> None:
    for site in (attention(3, 3), mlp(40)):
        kept = replace(site, removable=False)
        assert kept.ladder == site.ladder[:-1]
        assert kept.snap(1.0) == site.ladder[-2]
        assert kept.snap(0.0) == site.ladder[0]


def test_groups_that_leave_whole_skip_the_steps_between() -> None:
    site = replace(attention(3, 3), whole_groups=True)
    assert [(w.units, w.heads) for w in site.ladder] == [(3, 3), (2, 3), (1, 3), (0, 0)]


def test_values_of_what_attention_calls_its_head_counts() -> None:
    counts = (
        ("num_heads", HeadCount.QUERY),
        ("kv", HeadCount.KV),
        ("groups", HeadCount.SHARED),
        ("split", HeadCount.WIDTH),
    )
    site = replace(attention(3, 3, width=4), output="a.o", head_counts=counts)
    assert site.head_attributes(2, 3) == {"num_heads": 6, "kv": 2, "groups": 3, "split": 24}


@given(st.integers(1, 8), st.integers(1, 8), st.floats(0, 1))
def test_attention_snaps_to_the_nearest_step(groups: int, per_group: int, asked: float) -> None:
    site = attention(groups, per_group)
    sparsities = [w.sparsity for w in site.ladder]
    assert sparsities == sorted(set(sparsities))
    snapped = site.snap(asked)
    assert snapped in site.ladder
    assert abs(snapped.sparsity - asked) == min(abs(s - asked) for s in sparsities)


@given(st.integers(1, 300), st.floats(0, 1))
def test_mlp_snaps_within_half_a_channel(channels: int, asked: float) -> None:
    site = mlp(channels)
    snapped = site.snap(asked)
    assert snapped in site.ladder
    assert abs(snapped.sparsity - asked) <= 0.5 / channels + 1e-12


@given(st.integers(1, 50), st.integers(0, 50))
def test_parameters_of_a_width(channels: int, kept: int) -> None:
    kept = min(kept, channels)
    assert mlp(channels).width(kept, 0).parameters == 3 * 16 * kept


def test_indices_of_a_fused_projection() -> None:
    coupling = Coupling(
        "qkv",
        0,
        8,
        (
            Segment(Part.QUERY_HEAD, 4, 2),
            Segment(Part.KV_HEAD, 2, 2),
            Segment(Part.KV_HEAD, 2, 2),
        ),
    )
    kept = {Part.QUERY_HEAD: torch.tensor([2, 3]), Part.KV_HEAD: torch.tensor([1])}
    assert coupling.indices(kept).tolist() == [4, 5, 6, 7, 10, 11, 14, 15]


@pytest.mark.parametrize(("layers", "most"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (30, 14)])
def test_a_layer_is_left_between_the_ends(layers: int, most: int) -> None:
    assert most_ends(layers) == most
