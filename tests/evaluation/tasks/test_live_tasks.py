"""Items that follow a slider: lm-eval's likelihoods, from fewer layers, the same as anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks import likelihoods
from pruning_core.evaluation.tasks import live as live_tasks
from pruning_core.evaluation.tasks.accuracy import Scorer, Selection, ask, select
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.evaluation.tasks.documents import Documents
from pruning_core.evaluation.tasks.encoding import encode
from pruning_core.evaluation.tasks.live import LiveTask
from pruning_core.model.forward import decoder_layers
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.evaluation.tasks.test_equality import (
    DATA,
    ITEMS,
    LOCAL,
    SPELLER,
    TOKENIZER,
    TOLERANCE,
    needs_data,
)
from tests.evaluation.test_live import HEAD, layer_passes
from tests.maps import random_map, random_plan
from tests.model import tiny_checkpoints

MADE_UP = Selection(TASKS["boolq"], Documents((), "made up"), dict(ITEMS), None, None)


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNESCOPE_DATA", str(DATA))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path))


@pytest.fixture
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some lines make several batches."""
    monkeypatch.setattr(likelihoods, "_BATCH_TOKENS", {"cpu": 64})


@needs_data
@pytest.mark.parametrize("name", LOCAL)
def test_a_hundred_items_of_a_pruned_model_get_lm_evals_likelihoods_and_verdicts(name: str) -> None:
    model = tiny_checkpoints.model(max_position_embeddings=2048)
    bench, selection = Workbench(model), select(TASKS[name], 100, seed=0)
    live = LiveTask(bench, TOKENIZER, selection)
    dense = live.measure(None)
    plan = one_mlp(bench, len(decoder_layers(model, bench.anatomy)) - 1)
    ours = live.measure(plan)  # goes on from what the dense model left
    theirs = ask(model, TOKENIZER, selection, {}, scorer=Scorer.LM_EVAL)
    assert len(ours.votes) == 100
    assert ours.votes != dense.votes
    for mine, other in zip(ours.votes, theirs.votes, strict=True):
        assert [v.likelihood for v in mine] == pytest.approx(
            [v.likelihood for v in other], abs=TOLERANCE
        )
        assert [v.greedy for v in mine] == [v.greedy for v in other]
    assert ours.right == theirs.right


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("family", sorted({*tiny.FAMILIES, *tiny.VARIANTS, *tiny.MIXTURES}))
def test_every_family_answers_as_one_request_at_a_time(family: str) -> None:
    bench = Workbench(tiny.tiny_model(family))
    live = LiveTask(bench, SPELLER, MADE_UP)
    for plan in (None, random_plan(bench, 3)):
        found = live.measure(plan)
        for question, votes in zip(encode(ITEMS, SPELLER, 64), found.votes, strict=True):
            for row, vote in zip(question.rows, votes, strict=True):
                ids = torch.tensor(row.ids)
                with torch.no_grad():
                    logits = bench.model(ids[None, :-1]).logits[0, -row.scored :]
                own = logits.float().log_softmax(-1).gather(1, ids[-row.scored :, None])
                assert vote.likelihood == pytest.approx(own.sum().item(), abs=2e-4)
                assert vote.greedy == bool((logits.argmax(-1) == ids[-row.scored :]).all())


@pytest.mark.usefixtures("_small_batches")
def test_what_is_resumed_equals_what_is_asked_anew_bit_for_bit() -> None:
    bench = Workbench(tiny.tiny_model("llama"))
    live = LiveTask(bench, SPELLER, MADE_UP)
    plans = [None, one_mlp(bench, 2), random_plan(bench, 1), one_mlp(bench, 1), None]
    for plan in (*plans, random_plan(bench, 2), one_mlp(bench, 2, 0.25)):
        assert live.measure(plan) == LiveTask(bench, SPELLER, MADE_UP).measure(plan)


@pytest.mark.usefixtures("_small_batches")
def test_what_has_no_room_is_read_again_and_answers_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Workbench(tiny.tiny_model("llama"))
    plan = one_mlp(bench, 2)
    found = LiveTask(bench, SPELLER, MADE_UP).measure(plan)
    monkeypatch.setattr(live_tasks, "STATE_BYTES", 20_000)
    live = LiveTask(bench, SPELLER, MADE_UP)
    live.measure(None)
    with layer_passes(bench) as counts:
        assert live.measure(plan) == found
    assert 0 < counts[0] < counts[HEAD], "some batches start at the bottom, others do not"


def test_only_layers_from_the_change_upwards_run() -> None:
    bench = Workbench(tiny.tiny_model("llama"))
    live = LiveTask(bench, SPELLER, MADE_UP)
    live.measure(None)
    with layer_passes(bench) as counts:
        live.measure(one_mlp(bench, 2))
        live.measure(one_mlp(bench, 2))  # remembered
        live.measure(None)
    assert counts == {2: 1, HEAD: 1}


def test_answers_that_differ_in_their_last_token_are_read_once() -> None:
    bench = Workbench(tiny.tiny_model("llama"))
    items = {3: ITEMS[2][1]}  # y or n, after the same question
    live = LiveTask(bench, SPELLER, Selection(TASKS["boolq"], MADE_UP.documents, items, None, None))
    with token_counts(bench) as counts:
        live.measure(None)
    context, answer = items[3].requests[0]
    assert counts == [len(context) + len(answer) - 1]


def test_a_cancelled_asking_brings_the_plan_before_back() -> None:
    bench = Workbench(tiny.tiny_model("llama"))
    live = LiveTask(bench, SPELLER, MADE_UP)
    dense = live.measure(None)

    def tick(*_told: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        live.measure(one_mlp(bench, 0), tick)
    assert bench.plan is None
    assert live.measure(None) == dense


def test_a_model_that_answers_nan_is_told_and_nothing_is_remembered() -> None:
    bench = Workbench(tiny.tiny_model("llama"))
    live = LiveTask(bench, SPELLER, MADE_UP)
    norm = bench.model.model.norm.weight
    kept = norm.detach().clone()
    with torch.no_grad():
        norm.fill_(float("nan"))
    with pytest.raises(PrunescopeError, match="NaN"):
        live.measure(None)
    with torch.no_grad():
        norm.copy_(kept)
    assert LiveTask(bench, SPELLER, MADE_UP).measure(None).votes


def one_mlp(bench: Workbench, layer: int, sparsity: float = 0.5) -> Plan:
    recipe = Recipe("tiny", "abc").with_sparsity({SiteKey(layer, SiteKind.MLP): sparsity})
    return make_plan(recipe, random_map(bench.anatomy), bench.anatomy)


@contextmanager
def token_counts(bench: Workbench) -> Iterator[list[int]]:
    """Collect how many tokens go through the model in each pass."""
    counts: list[int] = []
    handle = bench.model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, args: counts.append(args[0].numel())
    )
    yield counts
    handle.remove()
