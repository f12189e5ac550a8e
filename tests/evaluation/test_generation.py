"""Text from a tiny model with a tokenizer of whole words."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.generation import generate
from pruning_core.planning.plan import make_plan
from pruning_core.progress import Cancelled
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.surgery.workbench import Workbench
from tests import tiny
from tests.maps import random_map

PROMPT = "w5 w17 w40"


def word_tokenizer(*, pad: bool = True) -> PreTrainedTokenizerFast:
    """``w7`` is token 7."""
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {name: index for index, name in enumerate(special)}
    vocabulary |= {f"w{index}": index for index in range(3, tiny.VOCABULARY)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>" if pad else None
    )


def greedy(model: PreTrainedModel, tokens: int) -> list[int]:
    """Return the most probable continuation of the prompt, knowing nothing of `generate`."""
    ids = torch.tensor([[5, 17, 40]])
    for _ in range(tokens):
        ids = torch.cat((ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
        if ids[0, -1] == 2:
            break
    return ids[0, 3:].tolist()


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3"])
def test_equals_greedy_decoding_by_hand(family: str, pad: bool) -> None:
    model = tiny.tiny_model(family)
    found = generate(model, word_tokenizer(pad=pad), PROMPT, tokens=12)
    expected = greedy(model, 12)
    assert found.text.split() == [f"w{token}" for token in expected if token > 2]
    assert found.tokens == len(expected)
    assert found.seconds > 0


def test_the_pruned_model_answers_for_itself() -> None:
    bench = Workbench(tiny.tiny_model())
    dense = generate(bench.model, word_tokenizer(), PROMPT, tokens=12)
    sparsity = {SiteKey(0, SiteKind.ATTENTION): 1.0, SiteKey(1, SiteKind.MLP): 0.8}
    recipe = Recipe("tiny", "abc").with_sparsity(sparsity)
    bench.apply(make_plan(recipe, random_map(bench.anatomy), bench.anatomy))
    pruned = generate(bench.model, word_tokenizer(), PROMPT, tokens=12)
    assert pruned.text != dense.text
    words = [f"w{token}" for token in greedy(bench.model, 12) if token > 2]
    assert pruned.text.split() == words


def test_it_stops_where_the_model_does() -> None:
    model = tiny.tiny_model()
    first = greedy(model, 1)[0]
    # Let what comes first be the end of text.
    weight = model.lm_head.weight
    weight[[2, first]] = weight[[first, 2]].clone()
    found = generate(model, word_tokenizer(), PROMPT, tokens=12)
    assert (found.text, found.tokens) == ("", 1)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t "])
def test_an_empty_prompt_is_a_sentence(prompt: str) -> None:
    with pytest.raises(PrunescopeError, match="prompt is empty"):
        generate(tiny.tiny_model(), word_tokenizer(), prompt)


def test_it_can_be_cancelled_between_tokens() -> None:
    model = tiny.tiny_model()
    tokens = tiny.tokens()
    logits = model(tokens).logits
    heard = []

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total, note))
        if done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate(model, word_tokenizer(), PROMPT, tokens=12, tick=stop, note="dense")
    assert heard == [("writing", done, 12, "dense") for done in (1, 2, 3)]
    assert torch.equal(model(tokens).logits, logits)
    assert generate(model, word_tokenizer(), PROMPT, tokens=2).tokens == 2
