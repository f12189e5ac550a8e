"""Resumed against full: the same numbers, from fewer layers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from pruning_core.evaluation import live
from pruning_core.evaluation.live import LiveEvaluator, StateCache
from pruning_core.evaluation.perplexity import measure_windows
from pruning_core.importance.map import ImportanceMap
from pruning_core.model.forward import decoder_layers
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

FAMILIES = ["llama", "gemma2", "gemma3_text", "gemma3", "phi3", "mixtral"]
WINDOWS = tiny.tokens(windows=5)
HEAD = 3
"""Where the head comes among the layers: after the last."""


@pytest.fixture(autouse=True)
def _two_windows_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five windows make three batches, the last of them short."""
    monkeypatch.setattr(live, "BATCH_TOKENS", 48)


def plan_of(
    bench: Workbench, sparsity: dict[SiteKey, float], scores: ImportanceMap | None = None
) -> Plan:
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    return make_plan(recipe, scores or random_map(bench.anatomy), bench.anatomy)


def one_mlp(bench: Workbench, layer: int, sparsity: float = 0.5) -> Plan:
    return plan_of(bench, {SiteKey(layer, SiteKind.MLP): sparsity})


def walk(bench: Workbench, seed: int, length: int) -> list[Plan | None]:
    """Return plans that change one or two sites at a time, go back, and go dense."""
    draw = random.Random(seed)
    maps = [random_map(bench.anatomy, which) for which in range(2)]
    sparsity: dict[SiteKey, float] = {}
    plans: list[Plan | None] = []
    for _ in range(length):
        move = draw.random()
        if move < 0.15:
            plans.append(None)
        elif move < 0.3 and plans:
            plans.append(draw.choice(plans))
        else:
            for site in draw.sample(bench.anatomy.sites, draw.choice([1, 1, 2])):
                sparsity[site.key] = draw.choice([0.0, 0.3, 1.0, draw.random()])
            plans.append(plan_of(bench, dict(sparsity), draw.choice([maps[0], maps[0], maps[1]])))
    return plans


@contextmanager
def layer_passes(bench: Workbench) -> Iterator[Counter[int]]:
    """Count how often each layer really runs; the head counts as one more."""
    counts: Counter[int] = Counter()
    # A layer that is passed over is still called; what is inside it is not.
    handles = [
        layer.input_layernorm.register_forward_pre_hook(
            lambda *_args, index=index: counts.update([index])
        )
        for index, layer in enumerate(decoder_layers(bench.model, bench.anatomy))
    ]
    handles.append(bench.model.register_forward_pre_hook(lambda *_args: counts.update([HEAD])))
    yield counts
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("state_bytes", [None, 0, 40_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_resumed_equals_full_exactly(family: str, state_bytes: int | None) -> None:
    bench = Workbench(tiny.tiny_model(family))
    for seed in range(2):
        evaluator = LiveEvaluator(bench, WINDOWS, state_bytes)
        for plan in walk(bench, seed, 9):
            found = evaluator.measure(plan)
            assert bench.plan is plan
            assert found == LiveEvaluator(bench, WINDOWS).measure(plan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_equals_full_exactly_in_short_dtypes(dtype: torch.dtype) -> None:
    bench = Workbench(tiny.tiny_model().to(dtype))
    evaluator = LiveEvaluator(bench, WINDOWS)
    for plan in walk(bench, 3, 9):
        assert evaluator.measure(plan) == LiveEvaluator(bench, WINDOWS).measure(plan)


@pytest.mark.parametrize("family", FAMILIES)
def test_live_equals_window_by_window(family: str) -> None:
    bench = Workbench(tiny.tiny_model(family))
    evaluator = LiveEvaluator(bench, WINDOWS)
    for plan in walk(bench, 7, 8):
        found = evaluator.measure(plan)
        plain = measure_windows(bench.model, WINDOWS)
        for one, other in zip(found.windows, plain.windows, strict=True):
            assert one.nll == pytest.approx(other.nll, rel=1e-5)
            assert (one.correct, one.scored) == (other.correct, other.scored)


@pytest.mark.parametrize("kind", SiteKind)
@pytest.mark.parametrize("layer", range(3))
def test_it_starts_at_the_lowest_changed_layer(layer: int, kind: SiteKind) -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    batches = 3
    with layer_passes(bench) as counts:
        evaluator.measure(None)
        assert counts == dict.fromkeys(range(HEAD + 1), batches)
        counts.clear()
        evaluator.measure(plan_of(bench, {SiteKey(layer, kind): 0.5}))
        assert counts == dict.fromkeys(range(layer, HEAD + 1), batches)


def test_it_starts_from_the_deepest_state_that_anyone_left() -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    low, high = SiteKey(0, SiteKind.MLP), SiteKey(2, SiteKind.MLP)
    evaluator.measure(plan_of(bench, {low: 0.5}))
    evaluator.measure(None)
    with layer_passes(bench) as counts:
        # Not what the plan before left, but the one before that.
        evaluator.measure(plan_of(bench, {low: 0.5, high: 0.5}))
        assert counts == {2: 3, HEAD: 3}


def test_undo_is_the_dense_number_itself_and_free() -> None:
    model = tiny.tiny_model()
    logits = model(WINDOWS).logits
    bench = Workbench(model)
    evaluator = LiveEvaluator(bench, WINDOWS)
    dense = evaluator.measure(None)
    assert evaluator.measure(one_mlp(bench, 0)) != dense
    with layer_passes(bench) as counts:
        assert evaluator.measure(None) == dense
        assert not counts
    assert bench.plan is None
    assert torch.equal(model(WINDOWS).logits, logits)


def test_going_back_to_a_plan_is_free_and_applies_it() -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    first, second = one_mlp(bench, 1, 0.5), one_mlp(bench, 1, 0.75)
    quality = evaluator.measure(first)
    evaluator.measure(second)
    with layer_passes(bench) as counts:
        assert evaluator.measure(first) == quality
        # A recipe that snaps to the same widths is the same model.
        assert evaluator.measure(one_mlp(bench, 1, 0.501)) == quality
        assert not counts
    assert bench.model.model.layers[1].mlp.up_proj.out_features == 20


def test_a_plan_that_keeps_everything_is_dense() -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    dense = evaluator.measure(None)
    with layer_passes(bench) as counts:
        assert evaluator.measure(plan_of(bench, {})) == dense
        assert not counts


def test_other_maps_give_other_numbers() -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    sparsity = {SiteKey(1, SiteKind.MLP): 0.5, SiteKey(2, SiteKind.ATTENTION): 0.4}
    plans = [plan_of(bench, sparsity, random_map(bench.anatomy, seed)) for seed in range(3)]
    found = [evaluator.measure(plan) for plan in plans]
    assert len({quality.perplexity for quality in found}) == 3
    for plan, quality in zip(plans, found, strict=True):
        assert LiveEvaluator(bench, WINDOWS).measure(plan) == quality
        assert evaluator.measure(plan) == quality


@pytest.mark.parametrize("batch", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_cancelling_leaves_the_plan_before(family: str, batch: int) -> None:
    model = tiny.tiny_model(family)
    logits = model(WINDOWS).logits
    bench = Workbench(model)
    evaluator = LiveEvaluator(bench, WINDOWS)
    before = plan_of(bench, {SiteKey(2, SiteKind.ATTENTION): 0.5})
    other = plan_of(bench, {site.key: 0.4 for site in bench.anatomy.sites})
    quality = evaluator.measure(before)
    pruned = model(WINDOWS).logits

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if done == batch:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluator.measure(other, stop)
    assert bench.plan is before
    assert torch.equal(model(WINDOWS).logits, pruned)
    assert evaluator.measure(before) == quality
    # What the cancelled work left behind is right, and used.
    with layer_passes(bench) as counts:
        found = evaluator.measure(other)
    assert counts == {0: 3 - batch, 1: 3 - batch, 2: 3 - batch, HEAD: 3}
    assert found == LiveEvaluator(bench, WINDOWS).measure(other)
    bench.restore()
    assert torch.equal(model(WINDOWS).logits, logits)
    assert evaluator.measure(None) == LiveEvaluator(bench, WINDOWS).measure(None)


def test_the_bench_may_be_moved_by_others() -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    plan = one_mlp(bench, 1)
    quality = evaluator.measure(plan)
    bench.apply(one_mlp(bench, 0, 1.0))
    assert evaluator.measure(plan) == quality
    assert bench.plan is plan
    bench.restore()
    other = one_mlp(bench, 2)
    assert evaluator.measure(other) == LiveEvaluator(bench, WINDOWS).measure(other)


def test_progress_says_from_which_layer() -> None:
    bench = Workbench(tiny.tiny_model())
    evaluator = LiveEvaluator(bench, WINDOWS)
    evaluator.measure(None)
    heard = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total, note))

    evaluator.measure(one_mlp(bench, 1), listen)
    assert heard == [
        *(("measuring", done, 3, "from layer 1") for done in range(3)),
        ("measuring", 3, 3, ""),
    ]


@pytest.mark.parametrize("above_dense", [0, 1, 7])
def test_dense_states_stay_whatever_is_measured_in_between(above_dense: int) -> None:
    """Room for the dense states and a few others: 3 entrances above layer 0, 3 batches."""
    bench = Workbench(tiny.tiny_model())
    dense, state = 3 * WINDOWS.numel() * 36 * 8, 48 * 36 * 8
    evaluator = LiveEvaluator(bench, WINDOWS, dense + above_dense * state)
    evaluator.measure(None)
    for step in range(1, 6):
        evaluator.measure(one_mlp(bench, 0, step / 7))
    heard: list[str] = []

    def listen(_stage: str, _done: int, _total: int, note: str = "") -> None:
        heard.append(note)

    evaluator.measure(None, listen)
    assert not heard, "answered from memory"
    top = one_mlp(bench, 2)
    found = evaluator.measure(top, listen)
    assert heard == ["from layer 2"] * 3 + [""]
    assert found == LiveEvaluator(bench, WINDOWS).measure(top)


def test_lasting_states_stay() -> None:
    cache = StateCache(3 * 80, lasting={"dense"})
    state = torch.zeros(10, dtype=torch.float64)

    def here(*keys: tuple[str, int]) -> list[bool]:
        return [cache.get(key) is not None for key in keys]

    for key in (("dense", 0), ("a", 0), ("a", 1), ("dense", 1)):
        cache.put(key, state)
    assert here(("dense", 0), ("a", 0), ("a", 1), ("dense", 1)) == [True, False, True, True]
    cache.put(("dense", 2), state)
    assert here(("dense", 0), ("a", 1), ("dense", 1), ("dense", 2)) == [True, False, True, True]
    # They fill it, and nothing finds room any more.
    cache.put(("b", 0), state)
    cache.put(("dense", 3), state)
    assert here(("b", 0), ("dense", 3)) == [False, False]
    assert here(("dense", 0), ("dense", 1), ("dense", 2)) == [True, True, True]


def test_states_stay_within_their_budget_and_the_oldest_go_first() -> None:
    cache = StateCache(3 * 80)
    state = torch.zeros(10, dtype=torch.float64)
    for index in range(3):
        cache.put(("a", index), state)
    assert cache.get(("a", 0)) is state
    cache.put(("b", 0), state)
    assert [cache.get(key) is not None for key in (("a", 0), ("a", 1), ("a", 2), ("b", 0))] == [
        True,
        False,
        True,
        True,
    ]
    # Putting a state again takes no room.
    for _ in range(5):
        cache.put(("b", 0), state)
    assert cache.get(("a", 2)) is state
