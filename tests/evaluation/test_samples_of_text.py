"""Samples of text: each model writes for itself, and the bench is dense again."""

from __future__ import annotations

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.generation import generate
from pruning_core.evaluation.samples import PROMPTS, write_samples
from pruning_core.planning.plan import Plan, make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.evaluation.test_generation import word_tokenizer
from tests.maps import random_map

WORDS = ("w5 w17 w40", "w9 w8")


def plan_for(bench: Workbench) -> Plan:
    sparsity = {SiteKey(0, SiteKind.ATTENTION): 1.0, SiteKey(1, SiteKind.MLP): 0.8}
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    return make_plan(recipe, random_map(bench.anatomy), bench.anatomy)


def test_each_side_is_what_that_model_writes_by_itself() -> None:
    bench, tokenizer = Workbench(tiny.tiny_model()), word_tokenizer()
    plan = plan_for(bench)
    found = write_samples(bench, tokenizer, plan, prompts=WORDS, tokens=12)
    assert [sample["prompt"] for sample in found] == [*WORDS]
    for side, applied in (("dense", False), ("pruned", True)):
        if applied:
            bench.apply(plan)
        expected = [generate(bench.model, tokenizer, words, tokens=12).text for words in WORDS]
        assert [sample[side] for sample in found] == expected
    assert found[0]["dense"] != found[0]["pruned"]


def test_without_a_plan_there_is_only_the_dense_model() -> None:
    found = write_samples(Workbench(tiny.tiny_model()), word_tokenizer(), prompts=WORDS, tokens=3)
    assert [set(sample) for sample in found] == [{"prompt", "dense"}] * 2


def test_the_bench_is_left_dense_even_when_it_is_stopped() -> None:
    bench = Workbench(tiny.tiny_model())
    tokens = tiny.tokens()
    logits = bench.model(tokens).logits

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if note == "pruned" and done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        write_samples(bench, word_tokenizer(), plan_for(bench), prompts=WORDS, tick=stop)
    assert torch.equal(bench.model(tokens).logits, logits)


def test_a_model_that_is_too_short_for_them_is_told() -> None:
    bench = Workbench(tiny.tiny_model(max_position_embeddings=16))
    with pytest.raises(PrunescopeError, match="take 17 tokens, and this model has 16 positions"):
        write_samples(bench, word_tokenizer(), prompts=WORDS, tokens=14)


def test_the_built_in_prompts_are_a_few_and_different() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) > 1
    assert all(prompt == prompt.strip() != "" for prompt in PROMPTS)
