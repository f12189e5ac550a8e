"""The fast path against lm-eval: the same requests word for word, the same likelihoods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pruning_core.evaluation.tasks import fast, harness
from pruning_core.evaluation.tasks.accuracy import Scorer, ask, select
from pruning_core.evaluation.tasks.definitions import TASKS, Item
from pruning_core.evaluation.tasks.encoding import encode
from pruning_core.model.loading import LoadedModel, load
from pruning_core.planning.plan import make_plan
from pruning_core.recipe import Recipe, Scoring, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map
from tests.model import tiny_checkpoints

DATA = Path(__file__).parents[4] / "shared" / "data"

LOCAL = sorted(set(TASKS) - {"lambada_openai"})
"""LAMBADA itself has no local copy; ``last_word`` asks the same way."""

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no local copies of the task sets")

TOKENIZER = tiny_checkpoints.tokenizer()


class Speller:
    """A tokenizer of letters, with the marks that an encoder asks about."""

    bos_token_id, eos_token_id = 1, 2

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) % 90 + 3 for letter in text]


SPELLER: Any = Speller()

ITEMS = [
    (0, Item((("the sun is", " hot"), ("the sun is", " cold and wet")), 0, (3, 12))),
    (1, Item((("a cat", " mews"), ("a cat", " meows"), ("a cat", " m")), 0, (4, 5, 1))),
    (2, Item((("is it so? answer:", " y"), ("is it so? answer:", " n")), 0, (1, 1))),
    (3, Item((("Ann saw Bob and Ann", " left"), ("Ann saw Bob and Bob", " left")), 1, (1, 1))),
    (4, Item((("Ann", " left the room"), ("Bob", " left the room")), 1, (1, 1))),
    (5, Item((("one two one", " two"),), 0, (1,))),
    (6, Item((("", "no context"), ("", "none at all")), 0, (1, 1))),
    (7, Item((("ends with spaces  ", "so"), ("ends with spaces  ", "not so")), 0, (1, 1))),
]
"""Answers that share a beginning, that are one token, that differ in context, that have none."""

TOLERANCE = 1e-3
"""Nats an item, in fp32: answers of some hundred tokens, each off by no more than rounding."""


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNESCOPE_DATA", str(DATA))
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load("demo", device="cpu", dtype="float32")


@needs_data
@pytest.mark.parametrize("name", LOCAL)
def test_requests_are_those_of_lm_eval_word_for_word(name: str) -> None:
    selection = select(TASKS[name], 150, seed=1)
    rows = [selection.documents.rows[index] for index in selection.items]
    theirs = harness.Harness(selection.task, rows)
    for place, item in enumerate(selection.items.values()):
        assert [request.args for request in theirs.requests(place)] == list(item.requests)


@needs_data
@pytest.mark.parametrize("name", LOCAL)
def test_a_hundred_items_get_the_likelihoods_and_verdicts_of_lm_eval(name: str) -> None:
    model = tiny_checkpoints.model(max_position_embeddings=2048)
    selection = select(TASKS[name], 100, seed=0)
    ours = ask(model, TOKENIZER, selection, {})
    theirs = ask(model, TOKENIZER, selection, {}, scorer=Scorer.LM_EVAL)
    assert len(ours.votes) == 100
    for mine, other in zip(ours.votes, theirs.votes, strict=True):
        assert [v.likelihood for v in mine] == pytest.approx(
            [v.likelihood for v in other], abs=TOLERANCE
        )
        assert [v.greedy for v in mine] == [v.greedy for v in other]
    assert ours.right == theirs.right


@needs_data
def test_what_is_too_long_loses_its_beginning_as_in_lm_eval() -> None:
    model = tiny_checkpoints.model(max_position_embeddings=256)
    selection = select(TASKS["arc_easy"], 60)
    ours = ask(model, TOKENIZER, selection, {})
    theirs = ask(model, TOKENIZER, selection, {}, scorer=Scorer.LM_EVAL)
    texts = ["".join(request) for item in selection.items.values() for request in item.requests]
    assert max(len(TOKENIZER.encode(text)) for text in texts) > 257
    for mine, other in zip(ours.votes, theirs.votes, strict=True):
        assert [v.likelihood for v in mine] == pytest.approx(
            [v.likelihood for v in other], abs=1e-3
        )
    assert ours.right == theirs.right


def check_against_one_at_a_time(model: PreTrainedModel) -> None:
    """Ask a tiny model in batches, and by plain passes that share nothing."""
    questions = encode(ITEMS, SPELLER, 64)
    batches = fast.batches(model, questions)
    assert any(len(batch) > 2 for batch in batches)
    assert sorted(q.index for batch in batches for q in batch) == [i for i, _ in ITEMS]
    for batch in batches:
        for question, votes in zip(batch, fast.votes(model, batch), strict=True):
            for row, vote in zip(question.rows, votes, strict=True):
                ids = torch.tensor(row.ids)
                logits = model(ids[None, :-1]).logits[0, -row.scored :]
                own = logits.float().log_softmax(-1).gather(1, ids[-row.scored :, None])
                assert vote.likelihood == pytest.approx(own.sum().item(), abs=2e-4)
                assert vote.greedy == bool((logits.argmax(-1) == ids[-row.scored :]).all())


@pytest.mark.parametrize("family", sorted({*tiny.FAMILIES, *tiny.VARIANTS, *tiny.MIXTURES}))
def test_every_family_answers_as_one_request_at_a_time(family: str) -> None:
    check_against_one_at_a_time(tiny.tiny_model(family))


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma2", "opt"])
def test_a_model_that_lost_heads_and_whole_sites_answers_as_one_request_at_a_time(
    family: str,
) -> None:
    bench = Workbench(tiny.tiny_model(family))
    shares = {
        site.key: (1.0, 0.4, 0.7)[site.key.layer]
        if site.key.kind is SiteKind.ATTENTION
        else (0.5, 1.0, 0.25)[site.key.layer]
        for site in bench.anatomy.sites
    }
    recipe = Recipe("tiny", "abc", Scoring("random")).with_sparsity(shares)
    bench.apply(make_plan(recipe, random_map(bench.anatomy), bench.anatomy))
    check_against_one_at_a_time(bench.model)


@needs_data
def test_lm_eval_measures_a_pruned_model_and_leaves_it_as_it_was() -> None:
    model = tiny_checkpoints.model(max_position_embeddings=2048)
    bench, before = Workbench(model), {name: p.clone() for name, p in model.named_parameters()}
    shares = {site.key: 0.5 for site in bench.anatomy.sites if site.key.kind is SiteKind.MLP}
    recipe = Recipe("tiny", "abc", Scoring("random")).with_sparsity(shares)
    bench.apply(make_plan(recipe, random_map(bench.anatomy), bench.anatomy))
    selection = select(TASKS["openbookqa"], 10)
    ours = ask(model, TOKENIZER, selection, {"pruned": True})
    theirs = ask(model, TOKENIZER, selection, {"pruned": True}, scorer=Scorer.LM_EVAL)
    bench.restore()
    dense = ask(model, TOKENIZER, selection, {"pruned": False})
    for mine, other, unpruned in zip(ours.votes, theirs.votes, dense.votes, strict=True):
        likelihoods = [v.likelihood for v in mine]
        assert likelihoods == pytest.approx([v.likelihood for v in other], abs=TOLERANCE)
        assert likelihoods != pytest.approx([v.likelihood for v in unpruned], abs=TOLERANCE)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.demo
@needs_data
@pytest.mark.parametrize("name", LOCAL)
def test_the_demo_model_answers_lm_eval_and_us_alike(name: str, demo: LoadedModel) -> None:
    selection = select(TASKS[name], 8, seed=0)
    ours = ask(demo.model, demo.tokenizer, selection, {})
    theirs = ask(demo.model, demo.tokenizer, selection, {}, scorer=Scorer.LM_EVAL)
    for mine, other in zip(ours.votes, theirs.votes, strict=True):
        assert [v.likelihood for v in mine] == pytest.approx(
            [v.likelihood for v in other], abs=TOLERANCE
        )
    assert ours.right == theirs.right
