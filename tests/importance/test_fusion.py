"""The learned fusion, and the divergence that it learns from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import PreTrainedModel

from pruning_core.importance import fusion as fusion_module
from pruning_core.importance import masking
from pruning_core.importance.fusion import (
    Training,
    _straight_through,
    fused_scores,
    learn_fusion,
    train_fusion,
)
from pruning_core.importance.granularity import Profiles, SiteProfiles
from pruning_core.importance.map import Fusion
from pruning_core.importance.masking import MaskedDivergence
from pruning_core.model.anatomy import Anatomy, Part, Site, read_anatomy
from pruning_core.model.forward import masked
from pruning_core.planning.selection import select
from pruning_core.progress import Cancelled, Enough
from pruning_core.recipe import SiteKey, SiteKind
from tests import tiny

SAMPLES = 5
TRAINING = Training(sparsity=0.4, spread=0.0, steps=6, batch=2, seed=0)

Sites = dict[SiteKey, tuple[Site, SiteProfiles]]


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(tiny.tiny_model())


def random_profiles(groups: int, draw: torch.Generator) -> Profiles:
    return Profiles(*torch.rand(2, SAMPLES, groups, generator=draw).add(0.01))


def random_sites(anatomy: Anatomy, seed: int = 0) -> Sites:
    """Return profiles drawn at random for every site."""
    draw = torch.Generator().manual_seed(seed)
    sites = {}
    for site in anatomy.sites:
        heads = site.counts.get(Part.QUERY_HEAD)
        profiles = SiteProfiles(
            random_profiles(site.units, draw), random_profiles(heads, draw) if heads else None
        )
        sites[site.key] = (site, profiles)
    return sites


class Linear:
    """A divergence that falls by a fixed worth for every mask that is 1."""

    windows = 4

    def __init__(self, worth: Mapping[SiteKey, torch.Tensor]) -> None:
        self.worth = worth
        self.masks: list[dict[SiteKey, torch.Tensor]] = []
        self.batches: list[list[int]] = []

    @classmethod
    def random(cls, anatomy: Anatomy) -> Linear:
        draw = torch.Generator().manual_seed(7)
        parts = {SiteKind.MLP: Part.CHANNEL, SiteKind.ATTENTION: Part.QUERY_HEAD}
        return cls(
            {
                site.key: torch.randn(site.counts[parts[site.key.kind]], generator=draw)
                for site in anatomy.sites
            }
        )

    def backward(self, masks: Mapping[SiteKey, torch.Tensor], windows: list[int]) -> float:
        self.masks.append({key: mask.detach().clone() for key, mask in masks.items()})
        self.batches.append(windows)
        loss = 0.0
        for key, mask in masks.items():
            removed = ((1 - mask) * self.worth[key]).sum()
            if removed.requires_grad:
                removed.backward()
            loss += removed.item()
        return loss


def same(one: Fusion, other: Fusion) -> bool:
    return one.curve == other.curve and all(
        torch.equal(one.sites[key].attention.units, other.sites[key].attention.units)
        for key in one.sites
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.3, 0.5, 0.77, 1.0])
def test_masks_are_hard_and_have_the_counts_of_the_snapped_width(
    anatomy: Anatomy, sparsity: float
) -> None:
    divergence = Linear.random(anatomy)
    training = replace(TRAINING, sparsity=sparsity, steps=4)
    learn_fusion(random_sites(anatomy), divergence, training)
    for masks in divergence.masks:
        for key, mask in masks.items():
            site = anatomy.by_key[key]
            width = site.snap(sparsity)
            assert set(mask.tolist()) <= {0.0, 1.0}
            if key.kind is SiteKind.MLP:
                assert mask.shape == (site.units,)
                assert mask.sum() == width.units
            else:
                by_group = mask.view(site.units, site.heads_per_unit).sum(1).tolist()
                gone = site.units - width.units
                assert sorted(by_group) == [0.0] * gone + [width.heads] * width.units


@given(
    st.integers(1, 4),
    st.integers(2, 40),
    st.floats(0.01, 0.99),
    st.floats(0.05, 2.0),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_straight_through_is_hard_forward_and_soft_backward(
    rows: int, groups: int, share: float, temperature: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, groups, generator=draw).requires_grad_(True)
    count = min(max(round(share * groups), 1), groups - 1)
    mask = _straight_through(scores, count, temperature)
    assert set(mask.flatten().tolist()) == {0.0, 1.0}
    assert (mask.sum(1) == count).all()
    for row, chosen in zip(scores.detach(), mask.detach().bool(), strict=True):
        assert row[chosen].min() >= row[~chosen].max()
    mask.sum().backward()
    assert scores.grad is not None
    # Those about to change places learn most, those far away may have nothing to learn.
    ordered = scores.detach().sort(dim=1, descending=True).values
    threshold = ordered[:, count - 1 : count + 1].mean(1, keepdim=True)
    nearest = (scores.detach() - threshold).abs().argmin(1)
    assert (scores.grad >= 0).all()
    at_nearest = scores.grad.gather(1, nearest[:, None]).squeeze(1)
    torch.testing.assert_close(at_nearest, scores.grad.amax(1))
    assert (scores.grad.amax(1) > 0).all()


def test_of_equal_scores_the_exact_count_stays() -> None:
    mask = _straight_through(torch.zeros(2, 10), 3, 0.1)
    assert mask.sum(1).tolist() == [3, 3]


def test_attention_is_a_share_and_differs_between_units(anatomy: Anatomy) -> None:
    fusion = learn_fusion(random_sites(anatomy), Linear.random(anatomy), TRAINING)
    assert set(fusion.sites) == {site.key for site in anatomy.sites}
    for site in fusion.sites.values():
        for share in (site.attention.units, site.attention.heads):
            if share is not None:
                assert ((share > 0) & (share < 1)).all()
                assert len(set(share.tolist())) == len(share)
                assert not share.requires_grad


def test_both_granularities_are_shown_as_they_were_given(anatomy: Anatomy) -> None:
    sites = random_sites(anatomy)
    fusion = learn_fusion(sites, Linear.random(anatomy), TRAINING)
    for key, (_, profiles) in sites.items():
        for grain in ("fine", "coarse"):
            expected, shown = profiles.scores(grain), getattr(fusion.sites[key], grain)
            assert torch.equal(shown.units, expected.units)
            assert (shown.heads is None) == (expected.heads is None)
            assert shown.heads is None or torch.equal(shown.heads, expected.heads)


def test_what_is_shown_is_what_ranks(anatomy: Anatomy, monkeypatch: pytest.MonkeyPatch) -> None:
    # Training one step longer makes its last mask from what the shorter training decided.
    monkeypatch.setattr(fusion_module, "TEMPERATURES", (0.3, 0.3))
    shorter = learn_fusion(random_sites(anatomy), Linear.random(anatomy), TRAINING)
    longer = Linear.random(anatomy)
    learn_fusion(random_sites(anatomy), longer, replace(TRAINING, steps=TRAINING.steps + 1))
    for key, mask in longer.masks[-1].items():
        site, shown = anatomy.by_key[key], shorter.sites[key]
        scores = fused_scores(shown)
        share = shown.attention.units
        expected = share * shown.fine.units + (1 - share) * shown.coarse.units
        assert torch.equal(scores.units, expected)
        if shown.attention.heads is not None:
            share = shown.attention.heads
            expected = share * shown.fine.heads + (1 - share) * shown.coarse.heads
            assert torch.equal(scores.heads, expected)
        kept = select(site, scores, site.snap(TRAINING.sparsity))
        part = Part.CHANNEL if key.kind is SiteKind.MLP else Part.QUERY_HEAD
        assert mask.nonzero().flatten().tolist() == kept[part].tolist()


def test_it_learns_whom_to_believe_unit_by_unit(anatomy: Anatomy) -> None:
    key = SiteKey(0, SiteKind.MLP)
    site = anatomy.by_key[key]
    even = torch.arange(site.units) % 2 == 0
    useful = torch.arange(site.units) < site.units // 2
    # Fine is right about even units and wrong about odd ones, coarse the other way round.
    right = torch.where(useful, 1.5, 0.5)
    fine, coarse = torch.where(even, right, 2 - right), torch.where(even, 2 - right, right)
    noise = torch.rand(2, SAMPLES, site.units, generator=torch.Generator().manual_seed(1)) * 0.1
    profiles = SiteProfiles(Profiles(fine + noise[0], coarse + noise[1]), None)
    divergence = Linear({key: torch.where(useful, 1.0, -1.0)})
    training = Training(sparsity=0.5, spread=0.0, steps=40, batch=1, seed=0)
    fusion = learn_fusion({key: (site, profiles)}, divergence, training)
    units = site.units // 2
    assert fusion.curve[0] > -units / 2
    assert fusion.curve[-1] == -units, "every useful unit stays and every harmful one goes"
    share = fusion.sites[key].attention.units
    assert (share[even] > 0.6).all()
    assert (share[~even] < 0.4).all()
    kept = select(site, fused_scores(fusion.sites[key]), site.snap(0.5))
    assert kept[Part.CHANNEL].tolist() == useful.nonzero().flatten().tolist()


class Sliding:
    """Shares with a number beside them whose gradient is always 1: Adam moves it by the rate."""

    def __init__(self) -> None:
        self.place = torch.zeros((), requires_grad=True)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.place], "lr": 0.5}]

    def units(self, _key: SiteKey) -> torch.Tensor:
        return torch.tensor(0.5)

    heads = units

    def penalty(self) -> torch.Tensor:
        return self.place


@pytest.mark.parametrize(
    ("settle", "paces"),
    [(0.0, [1, 1, 1, 1]), (0.5, [1, 1, 1, 0.5]), (1.0, [1, 0.75, 0.5, 0.25])],
)
@pytest.mark.parametrize("stop", [0, 2])
def test_rates_fall_over_the_last_share_of_the_steps(
    anatomy: Anatomy, settle: float, paces: list[float], stop: int
) -> None:
    shares, training = Sliding(), replace(TRAINING, steps=4, settle=settle, stop=stop)
    train_fusion(shares, random_sites(anatomy), Linear.random(anatomy), training)
    walked = 0.5 * sum(paces[: stop or 4])
    assert shares.place.item() == pytest.approx(-walked, rel=1e-5)


def test_a_seed_repeats_and_another_does_not(anatomy: Anatomy) -> None:
    training = replace(TRAINING, spread=0.2)
    runs = [
        learn_fusion(random_sites(anatomy), Linear.random(anatomy), replace(training, seed=seed))
        for seed in (3, 3, 4)
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_the_global_random_state_is_neither_read_nor_moved(anatomy: Anatomy) -> None:
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        runs.append(learn_fusion(random_sites(anatomy), Linear.random(anatomy), TRAINING))
        assert torch.equal(torch.get_rng_state(), state)
    assert same(*runs)


def test_gradients_are_asked_for_where_they_are_switched_off(anatomy: Anatomy) -> None:
    with torch.no_grad():
        inside = learn_fusion(random_sites(anatomy), Linear.random(anatomy), TRAINING)
    assert same(inside, learn_fusion(random_sites(anatomy), Linear.random(anatomy), TRAINING))


def test_the_curve_has_every_step_and_every_window_its_turn(anatomy: Anatomy) -> None:
    divergence = Linear.random(anatomy)
    fusion = learn_fusion(random_sites(anatomy), divergence, TRAINING)
    assert len(fusion.curve) == len(divergence.batches) == TRAINING.steps
    assert [len(batch) for batch in divergence.batches] == [TRAINING.batch] * TRAINING.steps
    seen = [window for batch in divergence.batches for window in batch]
    assert sorted(seen) == sorted([*range(divergence.windows)] * (len(seen) // divergence.windows))


@pytest.mark.parametrize("kind", SiteKind)
def test_only_what_is_masked_learns(anatomy: Anatomy, kind: SiteKind) -> None:
    sites, divergence = random_sites(anatomy), Linear.random(anatomy)
    training = replace(TRAINING, masked=frozenset(key for key in sites if key.kind is kind))
    before = learn_fusion(sites, Linear.random(anatomy), replace(training, steps=1, stop=1))
    fusion = learn_fusion(sites, divergence, training)
    for masks in divergence.masks:
        assert {key.kind for key in masks} == {kind}
    for key, site in fusion.sites.items():
        learned = not torch.equal(site.attention.units, before.sites[key].attention.units)
        assert learned is (key.kind is kind)


def test_cancelling_is_passed_on(anatomy: Anatomy) -> None:
    divergence = Linear.random(anatomy)
    heard: list[str] = []

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        heard.append(note)
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        learn_fusion(random_sites(anatomy), divergence, TRAINING, stop)
    assert len(divergence.batches) == 2
    assert heard[0] == ""
    assert "KL" in heard[1]


class After:
    """A tick that says it is enough once so many steps are done."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, _stage: str, done: int, _total: int, note: str = "") -> None:
        if done >= self.steps:
            raise Enough


@pytest.mark.parametrize("steps", [1, 3, TRAINING.steps])
def test_enough_keeps_what_a_training_that_stops_there_learns(anatomy: Anatomy, steps: int) -> None:
    training = replace(TRAINING, spread=0.2)
    kept = learn_fusion(random_sites(anatomy), Linear.random(anatomy), training, After(steps))
    assert len(kept.curve) == steps
    planned = replace(training, stop=steps)
    assert same(kept, learn_fusion(random_sites(anatomy), Linear.random(anatomy), planned))
    whole = learn_fusion(random_sites(anatomy), Linear.random(anatomy), training)
    assert whole.curve[:steps] == kept.curve
    assert same(kept, whole) == (steps == training.steps)


def test_before_the_first_step_there_is_nothing_to_keep(anatomy: Anatomy) -> None:
    divergence = Linear.random(anatomy)
    with pytest.raises(Cancelled):
        learn_fusion(random_sites(anatomy), divergence, TRAINING, After(0))
    assert divergence.batches == []


def test_a_stop_that_lies_behind_the_last_step_is_none(anatomy: Anatomy) -> None:
    late = replace(TRAINING, stop=TRAINING.steps + 5)
    runs = [
        learn_fusion(random_sites(anatomy), Linear.random(anatomy), t) for t in (TRAINING, late)
    ]
    assert same(*runs)


# The divergence of a real model.

FAMILIES = ["llama", "gemma2", "phi3", "qwen3"]


def random_masks(anatomy: Anatomy, seed: int, *, hard: bool = False) -> dict[SiteKey, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    masks = {}
    for site in anatomy.sites:
        units = site.counts.get(Part.QUERY_HEAD) or site.units
        mask = torch.rand(units, generator=draw, dtype=torch.float64)
        masks[site.key] = (mask > 0.4).double() if hard else mask
    return masks


def naive_divergence(
    model: PreTrainedModel, masks: Mapping[SiteKey, torch.Tensor], windows: torch.Tensor
) -> float:
    """Return KL(dense || masked) from full logits, the masks multiplied into the weights."""
    other = copy.deepcopy(model)
    for key, mask in masks.items():
        layer = other.model.layers[key.layer]
        if key.kind is SiteKind.ATTENTION:
            layer.self_attn.o_proj.weight *= mask.repeat_interleave(8)
        else:
            layer.mlp.down_proj.weight *= mask
    p, q = (F.log_softmax(m(windows).logits, dim=-1) for m in (model, other))
    return (p.exp() * (p - q)).sum(-1).mean().item()


@contextmanager
def untouched(model: PreTrainedModel) -> Iterator[None]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    forwards = {name for name, module in model.named_modules() if "forward" in module.__dict__}
    yield
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert forwards == {n for n, module in model.named_modules() if "forward" in module.__dict__}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_masked_is_no_divergence(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    divergence = MaskedDivergence(model, anatomy, tiny.tokens(windows=2))
    ones = {key: torch.ones_like(mask) for key, mask in random_masks(anatomy, 0).items()}
    with untouched(model):
        # The first time round the dense model runs in full, then only its head.
        assert [divergence.backward(ones, [0, 1]) for _ in range(2)] == [0.0, 0.0]


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_divergence_equals_the_one_from_full_logits(family: str, hard: bool) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    anatomy = read_anatomy(model)
    divergence = MaskedDivergence(model, anatomy, windows)
    masks = random_masks(anatomy, 1, hard=hard)
    expected = naive_divergence(model, masks, windows[[0, 2]])
    assert expected > 0.01
    with untouched(model):
        assert divergence.backward(masks, [0, 2]) == pytest.approx(expected, rel=1e-4)
    assert divergence.windows == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_masks_equal_finite_differences(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=2)
    anatomy = read_anatomy(model)
    masks = {k: m.requires_grad_(True) for k, m in random_masks(anatomy, 2).items()}
    with untouched(model):
        MaskedDivergence(model, anatomy, windows).backward(masks, [0, 1])
    for key, mask in masks.items():
        # One site at a time, along its own gradient: a large and certain slope.
        direction = mask.grad / mask.grad.norm()
        here = {key: mask.detach() for key, mask in masks.items()}
        ends = [
            naive_divergence(model, here | {key: here[key] + step * direction}, windows)
            for step in (1e-4, -1e-4)
        ]
        assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(mask.grad.norm().item(), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_time_is_cheaper_and_the_same(family: str) -> None:
    model = tiny.tiny_model(family)
    anatomy = read_anatomy(model)
    divergence = MaskedDivergence(model, anatomy, tiny.tokens(windows=2))
    calls: list[int] = []
    model.model.layers[1].mlp.register_forward_hook(lambda *_: calls.append(1))
    outcomes = []
    for expected_calls in (4, 2):
        masks = {k: m.requires_grad_(True) for k, m in random_masks(anatomy, 3).items()}
        loss = divergence.backward(masks, [0, 1])
        outcomes.append((loss, [mask.grad for mask in masks.values()]))
        assert len(calls) == expected_calls
        calls.clear()
    (first, grads), (second, again) = outcomes
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_together_are_windows_one_by_one(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator: two passes for three windows, the second of them short."""
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    anatomy = read_anatomy(model)
    outcomes = []
    for tokens in (24, 48):
        monkeypatch.setattr(masking, "tokens_together", lambda _device, _length, n=tokens: n)
        divergence = MaskedDivergence(model, anatomy, windows)
        for _ in range(2):
            masks = {k: m.requires_grad_(True) for k, m in random_masks(anatomy, 3).items()}
            loss = divergence.backward(masks, [2, 0, 1])
            outcomes.append((loss, torch.cat([mask.grad.flatten() for mask in masks.values()])))
        assert divergence.measure(masks, [2, 0, 1]) == pytest.approx(loss, rel=1e-6)
    for loss, gradients in outcomes[1:]:
        assert loss == pytest.approx(outcomes[0][0], rel=1e-6)
        torch.testing.assert_close(gradients, outcomes[0][1], rtol=1e-5, atol=1e-8)


def test_masks_without_a_graph_only_take_part_in_the_forward_pass() -> None:
    model = tiny.tiny_model()
    anatomy = read_anatomy(model)
    divergence = MaskedDivergence(model, anatomy, tiny.tokens(windows=1))
    masks = random_masks(anatomy, 4)
    free = SiteKey(1, SiteKind.MLP)
    alone = divergence.backward(masks, [0])
    masks[free].requires_grad_(True)
    assert divergence.backward(masks, [0]) == alone
    assert masks[free].grad.abs().sum() > 0


def test_masks_may_lie_on_another_device_than_the_model() -> None:
    # Masks are learned on the CPU; the device without memory stands in for an accelerator.
    model = tiny.tiny_model().to("meta")
    anatomy = read_anatomy(model)
    with masked(model, anatomy, random_masks(anatomy, 5)):
        logits = model(tiny.tokens().to("meta")).logits
    assert logits.shape == (2, 24, tiny.VOCABULARY)
    assert logits.device.type == "meta"
