"""Mutual information: who leaves first, how clusters are made, and which seed is chosen."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.importance.estimators.mutual_information import correlated, removal_order
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.masking import MaskedDivergence
from pruning_core.importance.registry import Scored, estimator
from pruning_core.model import memory
from pruning_core.model.anatomy import read_anatomy
from pruning_core.progress import Cancelled
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

OF_TWO_PAIRS = 25.5 / 27
"""The quantile above which two of the 28 pairs of eight neurons lie."""
MLP, ATTENTION = SiteKey(1, SiteKind.MLP), SiteKey(1, SiteKind.ATTENTION)
CHANNELS = 40


def evidence(model: PreTrainedModel, seed: int = 0) -> Evidence:
    return Evidence(
        model,
        read_anatomy(model),
        lambda count, _tick: tiny.tokens(windows=count or 3, seed=seed),
        seed=seed,
    )


def run(model: PreTrainedModel, seed: int = 0, **given: object) -> Scored:
    method = estimator("mutual-information")
    assert method.score is not None
    return method.score(evidence(model, seed), method.settings({"windows": 2, **given}))


def doubled(*pairs: tuple[int, int], scale: float = 1.0) -> PreTrainedModel:
    """Return a model in whose layer 1 the second channel of each pair repeats the first, scaled."""
    model = tiny.tiny_model("qwen2")
    mlp = model.model.layers[1].mlp
    for one, other in pairs:
        mlp.gate_proj.weight[other] = mlp.gate_proj.weight[one]
        mlp.up_proj.weight[other] = mlp.up_proj.weight[one] * scale
    return model


@pytest.mark.parametrize("pairs", ["largest", "random"])
@pytest.mark.parametrize("scale", [1.0, -0.2])
def test_one_of_two_channels_that_say_the_same_leaves_first(pairs: str, scale: float) -> None:
    twins = [(3, 17), (30, 8)]
    model = doubled(*twins, scale=scale)
    # Of the 780 pairs the twins alone lie above this quantile.
    units = run(model, pairs=pairs, quantile=777.5 / 779).sites[MLP].units
    first = set(units.argsort()[:2].tolist())
    assert all(len(first & set(pair)) == 1 for pair in twins)


def test_of_equals_the_one_with_the_smaller_column_leaves() -> None:
    for small, large in ((3, 17), (17, 3)):
        model = doubled((3, 17))
        down = model.model.layers[1].mlp.down_proj.weight
        down[:, small] = 0.01
        down[:, large] = 1.0
        assert int(run(model).sites[MLP].units.argmin()) == small


def test_channels_that_never_change_leave_before_all_others() -> None:
    model = tiny.tiny_model("qwen2")
    mlp = model.model.layers[1].mlp
    mlp.up_proj.weight[[5, 21]] = 0.0
    mlp.down_proj.weight[:, 5] = 3.0
    assert run(model).sites[MLP].units.argsort()[:2].tolist() == [21, 5]


def test_scores_are_places_with_mean_one() -> None:
    for key, site in run(tiny.tiny_model(), cluster=7).sites.items():
        torch.testing.assert_close(site.units.mean(), torch.tensor(1.0))
        if key.kind is SiteKind.MLP:
            places = torch.arange(1, CHANNELS + 1) * (2 / (CHANNELS + 1))
            torch.testing.assert_close(site.units.sort().values, places)


def test_heads_are_ranked_by_how_loud_they_are() -> None:
    model = tiny.tiny_model()
    found: list[torch.Tensor] = []
    hook = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(
        lambda _module, inputs: found.append(inputs[0])
    )
    # All three windows have 72 positions, so that all are sampled.
    site = run(model).sites[ATTENTION]
    hook.remove()
    heads = torch.cat(found[:3]).abs().mean((0, 1)).view(9, 8).mean(1).float()
    assert site.heads is not None
    torch.testing.assert_close(site.heads, heads / heads.mean())
    groups = heads.view(3, 3).mean(1)
    torch.testing.assert_close(site.units, groups / groups.mean())


# The order of leaving, by hand.


def table(*pairs: tuple[int, int, float], neurons: int = 4) -> torch.Tensor:
    values = torch.eye(neurons)
    for one, other, shared in pairs:
        values[one, other] = values[other, one] = shared
    return values


def test_of_the_nearest_pair_the_one_nearer_to_the_rest_leaves() -> None:
    shared = table((0, 1, 0.9), (2, 3, 0.5), (1, 2, 0.3), (0, 3, 0.1))
    # 1 of (0, 1): 0.3 > 0.1. Then of (2, 3), with 1 gone, 3 has 0.1 to 0 and 2 nothing.
    order = removal_order([(torch.arange(4), shared)], torch.tensor([2.0, 1.0, 1.0, 1.0]))
    assert order.tolist()[:2] == [1, 3]
    # 0 and 2 share nothing and are equals: the smaller column leaves, the other is the last.
    assert order.tolist()[2:] == [2, 0]


def test_clusters_are_merged_by_their_nearest_pairs() -> None:
    one = torch.tensor([4, 0]), table((0, 1, 0.2), neurons=2)
    two = torch.tensor([1, 2, 3]), table((0, 1, 0.7), (1, 2, 0.1), neurons=3)
    norms = torch.tensor([9.0, 1.0, 1.0, 1.0, 0.5])
    # 2 of (1, 2), which shares 0.1 with 3; 4 of (0, 4); of (1, 3), which share nothing and are
    # equals, the first; then what is left of each cluster, by norm.
    assert removal_order([one, two], norms).tolist() == [2, 4, 1, 3, 0]


def test_random_pairs_lie_above_the_quantile_and_answer_to_the_seed() -> None:
    values = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).triu(1) / 2
    values = values + values.T
    # Two pairs stand out: they come first, in either order.
    values[0, 1] = values[1, 0] = 0.8
    values[4, 6] = values[6, 4] = 0.9
    cluster = [(torch.arange(8), values)]
    orders = []
    for seed in range(12):
        draw = torch.Generator().manual_seed(seed)
        orders.append(removal_order(cluster, torch.ones(8), draw, OF_TWO_PAIRS).tolist())
    firsts = {tuple(order[:2]) for order in orders}
    assert len(firsts) == 2
    assert all(len({0, 1} & {*pair}) == len({4, 6} & {*pair}) == 1 for pair in firsts)
    again = removal_order(cluster, torch.ones(8), torch.Generator().manual_seed(3), OF_TWO_PAIRS)
    assert again.tolist() == orders[3]


# Clusters.


@pytest.mark.parametrize(("neurons", "size"), [(40, 64), (40, 7), (64, 64), (65, 64), (3, 2)])
def test_every_neuron_is_in_one_cluster_and_none_is_too_large(neurons: int, size: int) -> None:
    activations = torch.randn(neurons, 30, generator=torch.Generator().manual_seed(0))
    clusters = [*correlated(activations, size, torch.Generator().manual_seed(1))]
    assert torch.cat(clusters).sort().values.tolist() == list(range(neurons))
    sizes = [len(members) for members in clusters]
    assert len(sizes) == -(-neurons // size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_those_that_are_correlated_come_together() -> None:
    draw = torch.Generator().manual_seed(0)
    sources = torch.randn(4, 60, generator=draw)
    signs = torch.randn(32, 1, generator=draw).sign()
    activations = sources.repeat(8, 1) * signs + 0.1 * torch.randn(32, 60, generator=draw)
    for members in correlated(activations, 8, torch.Generator().manual_seed(1)):
        assert len(set((members % 4).tolist())) == 1


# Seeds.


def test_of_several_seeds_the_least_harmful_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.tiny_model()
    settings = {"cluster": 5, "sparsity": 0.4}
    alone = [run(model, seeds=1, seed=0, **settings).sites[MLP].units]
    harms: list[float] = []
    masked: list[torch.Tensor] = []
    measure = MaskedDivergence.measure

    def listening(self: MaskedDivergence, masks: dict, windows: range) -> float:
        masked.append(masks[MLP])
        assert all(key.kind is SiteKind.MLP for key in masks)
        harms.append(measure(self, masks, windows))
        return harms[-1]

    monkeypatch.setattr(MaskedDivergence, "measure", listening)
    chosen = run(model, seeds=4, **settings).sites[MLP].units
    assert len(harms) == 4
    assert len(set(harms)) > 1, "the seeds differ"
    gone = chosen.argsort()[:16].sort().values
    best = harms.index(min(harms))
    assert torch.equal(torch.where(masked[best] == 0)[0], gone)
    first = alone[0].argsort()[:16].sort().values
    assert torch.equal(torch.where(masked[0] == 0)[0], first), "the first seed is that of one alone"


def test_comparing_seeds_is_told_and_can_be_cancelled() -> None:
    model, tokens = tiny.tiny_model(), tiny.tokens()
    logits = model(tokens).logits
    asked, heard = evidence(model), []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total))

    asked.tick = listen
    method = estimator("mutual-information")
    assert method.score is not None
    settings = method.settings({"seeds": 2, "windows": 2, "cluster": 20})
    method.score(asked, settings)
    comparing = [(done, total) for stage, done, total in heard if stage == "comparing neurons"]
    # Two clusters in each of three layers, for each of two seeds.
    assert comparing == [(done, 12) for done in range(13)]
    assert heard[-3:] == [("comparing seeds", done, 2) for done in range(3)]

    def stop(stage: str, done: int, _total: int, note: str = "") -> None:
        if (stage, done) == ("comparing seeds", 1):
            raise Cancelled

    asked.tick = stop
    with pytest.raises(Cancelled):
        method.score(asked, settings)
    assert torch.equal(model(tokens).logits, logits)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_one_seed_has_nothing_to_choose() -> None:
    drawn: list[int | None] = []
    model = tiny.tiny_model()

    def draw(count: int | None, _tick: object) -> torch.Tensor:
        drawn.append(count)
        return tiny.tokens(windows=count or 3)

    method = estimator("mutual-information")
    assert method.score is not None
    method.score(Evidence(model, read_anatomy(model), draw), method.settings({}))
    assert drawn == [None]


def test_measuring_needs_no_memory_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 0)
    assert run(tiny.tiny_model(), seeds=2).sites


def test_the_measured_divergence_is_that_of_the_backward_pass() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    divergence = MaskedDivergence(model, anatomy, tiny.tokens(windows=3))
    draw = torch.Generator().manual_seed(0)
    masks = {site.key: torch.rand(CHANNELS, generator=draw) for site in anatomy.sites[1::2]}
    with torch.enable_grad():
        graph = {key: mask.clone().requires_grad_(True) for key, mask in masks.items()}
        expected = divergence.backward({key: mask * 1 for key, mask in graph.items()}, [0, 2])
    found = divergence.measure(masks, [0, 2])
    assert found == pytest.approx(expected)
    assert found > 0
    whole = {key: torch.ones_like(mask) for key, mask in masks.items()}
    assert divergence.measure(whole, [1]) == pytest.approx(0, abs=1e-9)


def test_other_seeds_draw_other_tokens_and_clusters() -> None:
    model = tiny.tiny_model()
    one, other = (run(model, seed=seed, seeds=1, cluster=5).sites[MLP].units for seed in (0, 1))
    assert not torch.equal(one, other)
    assert all(a < b for a, b in pairwise(one.sort().values.tolist())), "no two are equals"
