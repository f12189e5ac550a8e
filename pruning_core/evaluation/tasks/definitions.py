"""What each task asks: its requests to the model, its right answer, and what counts.

The requests are those of lm-eval 0.4 with no examples given, word for word; a test holds them
against lm-eval's own. Documents are in the layout of the hub's data sets, wherever they came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from pruning_core.errors import PrunescopeError, unknown_name

Document: TypeAlias = Mapping[str, Any]

_BRACKETS = re.compile(r"\[.*?\]")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        requests: a context and its continuation for each answer; the likelihood of the continuation
            is the model's vote for it.
        gold: the place of the right answer.
        lengths: characters of each answer, by which acc_norm divides; all 1 where there is none.
    """

    requests: tuple[tuple[str, str], ...]
    gold: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Vote:
    """What a model says to one request: its log-likelihood, nats, and whether greedy says it."""

    likelihood: float
    greedy: bool


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as on the command line and in lm-eval, which knows all but the last.
        title: as on screen.
        split: what is measured on.
        item: makes the question of a document.
        metrics: what counts: ``acc``, ``acc_norm`` (likelihood per character of the answer).
        definition: lm-eval's own, within its folder of tasks.
        note: what a reader of its numbers must know.
    """

    name: str
    title: str
    split: str
    item: Callable[[Document], Item]
    metrics: tuple[str, ...]
    definition: str
    note: str = ""

    def right(self, item: Item, votes: Sequence[Vote]) -> dict[str, float]:
        """Return for each metric whether an item was answered right, 1 or 0.

        With one request, the continuation itself has to be what the model says greedily. Of equal
        likelihoods the first wins, as in lm-eval.
        """
        if len(votes) == 1:
            return {"acc": float(votes[0].greedy)}
        likelihoods = np.array([vote.likelihood for vote in votes])
        found = {"acc": float(likelihoods.argmax() == item.gold)}
        if "acc_norm" in self.metrics:
            per_character = likelihoods / np.array(item.lengths, float)
            found["acc_norm"] = float(per_character.argmax() == item.gold)
        return found


def task(name: str) -> Task:
    """Return a task by name.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def chance(items: Sequence[Item]) -> float:
    """Return the accuracy of guessing; 0 where the answer is a word and guessing is hopeless."""
    shares = [1 / len(item.requests) if len(item.requests) > 1 else 0.0 for item in items]
    return sum(shares) / len(shares)


def _choices(context: str, answers: Sequence[str], gold: int) -> Item:
    if not 0 <= gold < len(answers):
        raise PrunescopeError(f"The right answer is number {gold}, and there are {len(answers)}.")
    requests = tuple((context, f" {answer}") for answer in answers)
    return Item(requests, gold, tuple(max(len(answer), 1) for answer in answers))


def _boolq(document: Document) -> Item:
    context = f"{document['passage']}\nQuestion: {document['question']}?\nAnswer:"
    return _choices(context, ("no", "yes"), int(document["label"]))


def _piqa(document: Document) -> Item:
    context = f"Question: {document['goal']}\nAnswer:"
    return _choices(context, (document["sol1"], document["sol2"]), int(document["label"]))


def _hellaswag(document: Document) -> Item:
    context = f"{document['ctx_a']} {document['ctx_b'].capitalize()}"
    endings = [_without_marks(ending) for ending in document["endings"]]
    asked = _without_marks(f"{document['activity_label']}: {context}")
    return _choices(asked, endings, int(document["label"]))


def _without_marks(text: str) -> str:
    """Clean what WikiHow's pages left in HellaSwag."""
    text = _BRACKETS.sub("", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _winogrande(document: Document) -> Item:
    """Ask which option makes the rest of the sentence likelier (Trinh and Le 2018)."""
    before, _, after = document["sentence"].partition("_")
    rest = f" {after.strip()}"
    options = (document["option1"], document["option2"])
    requests = tuple((before + option, rest) for option in options)
    return Item(requests, ("1", "2").index(document["answer"]), (1, 1))


def _arc(document: Document) -> Item:
    choices = document["choices"]
    gold = choices["label"].index(document["answerKey"])
    return _choices(f"Question: {document['question']}\nAnswer:", choices["text"], gold)


def _openbookqa(document: Document) -> Item:
    choices = document["choices"]
    gold = choices["label"].index(document["answerKey"].lstrip())
    return _choices(document["question_stem"], choices["text"], gold)


def _last_word(document: Document) -> Item:
    before, _, word = document["text"].rpartition(" ")
    return Item(((before, f" {word}"),), 0, (1,))


_BOTH = ("acc", "acc_norm")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            *("boolq", "BoolQ", "validation", _boolq, ("acc",), "super_glue/boolq/default.yaml"),
            note="The local copy's passages lack their titles, which the hub's begin with: numbers "
            "of the two differ.",
        ),
        Task("piqa", "PIQA", "validation", _piqa, _BOTH, "piqa/piqa.yaml"),
        Task("hellaswag", "HellaSwag", "validation", _hellaswag, _BOTH, "hellaswag/hellaswag.yaml"),
        Task(
            "winogrande",
            "WinoGrande",
            "validation",
            _winogrande,
            ("acc",),
            "winogrande/default.yaml",
        ),
        Task("arc_easy", "ARC-easy", "test", _arc, _BOTH, "arc/arc_easy.yaml"),
        Task("arc_challenge", "ARC-challenge", "test", _arc, _BOTH, "arc/arc_challenge.yaml"),
        Task("openbookqa", "OpenBookQA", "test", _openbookqa, _BOTH, "openbookqa/openbookqa.yaml"),
        Task(
            "lambada_openai",
            "LAMBADA (OpenAI's form)",
            "test",
            _last_word,
            ("acc",),
            "lambada/lambada_openai.yaml",
        ),
        Task(
            "last_word",
            "Last words of WikiText-2 passages",
            "test",
            _last_word,
            ("acc",),
            "lambada/lambada_openai.yaml",
            note="LAMBADA's question put to other passages: those of the WikiText-2 test whose "
            "last word stands in them before. Not LAMBADA, and not comparable with it.",
        ),
    )
}
