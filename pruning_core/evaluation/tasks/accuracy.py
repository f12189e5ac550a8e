"""Accuracy of the model on the bench: which items, scored by whom, resumed where it was left."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from pruning_core.calibration.text import Split, Text
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks import fast, harness
from pruning_core.evaluation.tasks.definitions import Item, Task, Vote, chance
from pruning_core.evaluation.tasks.documents import Documents, make_items, read_documents
from pruning_core.evaluation.tasks.encoding import USUAL_LENGTH, encode
from pruning_core.evaluation.tasks.journal import Journal, Votes
from pruning_core.model.forward import positions
from pruning_core.progress import Tick, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Scorer(StrEnum):
    """Who scores: our batches with shared beginnings, or lm-eval from end to end."""

    FAST = "fast"
    LM_EVAL = "lm-eval"


@dataclass(frozen=True)
class Selection:
    """Some items of a task, to be asked of one model or of several.

    Attributes:
        task: the task.
        documents: all its rows.
        items: the chosen ones by their index in the task, in its order.
        limit: at most so many were to be chosen; None for all.
        seed: of the choice; None took the first.
    """

    task: Task
    documents: Documents = field(repr=False)
    items: Mapping[int, Item] = field(repr=False)
    limit: int | None
    seed: int | None

    @property
    def text(self) -> Text:
        """The chosen items with their right answers, for the leak guard."""
        asked = tuple("".join(item.requests[item.gold]) for item in self.items.values())
        return Text(self.task.name, Split.MEASUREMENT, asked, "\n", self.documents.source)

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return chance(list(self.items.values()))


@dataclass(frozen=True)
class Answers:
    """What a model said to the items of a selection, in their order.

    Attributes:
        votes: for each item, one vote a request.
        right: by metric, 1 or 0 for each item.
        resumed: how many items were there from before.
    """

    votes: tuple[tuple[Vote, ...], ...]
    right: Mapping[str, tuple[float, ...]]
    resumed: int


def select(task: Task, limit: int | None = None, seed: int | None = None) -> Selection:
    """Read a task and choose its items: all, the first `limit`, or a sample by `seed`.

    Raises:
        PrunescopeError: if the rows are missing, damaged or none, or the limit is out of range.
    """
    if limit is not None and limit < 1:
        raise PrunescopeError(f"The limit of items is {limit}; it must be 1 or more, or none.")
    documents = read_documents(task)
    items = make_items(task, documents)
    if not items:
        raise PrunescopeError(
            f"{task.title} has no items ({documents.source}): its text holds none. Put a whole "
            "copy there."
        )
    indices = range(len(items))
    if limit is not None and limit < len(items):
        drawn = random.Random(seed).sample(indices, limit) if seed is not None else indices[:limit]
        indices = sorted(drawn)  # type: ignore[assignment]
    return Selection(task, documents, {i: items[i] for i in indices}, limit, seed)


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    selection: Selection,
    identity: Mapping[str, Any],
    *,
    scorer: Scorer = Scorer.FAST,
    resume: bool = False,
    tick: Tick = silent,
    note: str = "",
) -> Answers:
    """Ask a model the items of a selection; each batch is kept on disk as soon as it is scored.

    Args:
        model: dense or pruned, as it stands.
        tokenizer: its own.
        selection: what to ask.
        identity: what the model is (fingerprint, digest of the recipe, device, dtype, versions), by
            which a later call finds what this one has kept; the rest is added here.
        scorer: who scores.
        resume: go on from what an earlier call has kept.
        tick: hears one step per item.

    Raises:
        PrunescopeError: if an item can't be asked, the model answers NaN, or the disk is full.
        Cancelled: by `tick`, between batches; what is scored by then is kept.
    """
    whole = {
        **identity,
        "task": selection.task.name,
        "documents": selection.documents.sha256,
        "items": [*selection.items],
        "scorer": scorer,
    }
    chosen: _Fast | _LmEval = (
        _Fast(model, tokenizer, selection)
        if scorer is Scorer.FAST
        else _LmEval(model, tokenizer, selection)
    )
    with Journal(whole, resume=resume) as journal:
        resumed = len(journal.done)
        for batch in chosen.batches():
            if all(index in journal.done for index in batch):
                continue
            tick("asking", len(journal.done), len(selection.items), note)
            votes = chosen.votes(batch)
            check_votes(votes, selection.task)
            journal.add(votes)
        done = dict(journal.done)
    tick("asking", len(done), len(selection.items), note)
    return judged(selection, done, chosen.right, resumed)


def judged(
    selection: Selection,
    votes: Votes,
    right: Callable[[int, tuple[Vote, ...]], Mapping[str, float]],
    resumed: int = 0,
) -> Answers:
    """Return votes on all items of a selection as answers.

    Args:
        right: says of an item, by its index, and the votes on it which metrics it meets.
        resumed: how many items were there from before.
    """
    verdicts = [right(index, votes[index]) for index in selection.items]
    return Answers(
        tuple(votes[index] for index in selection.items),
        {name: tuple(each[name] for each in verdicts) for name in selection.task.metrics},
        resumed,
    )


class _Fast:
    """Our own batches."""

    def __init__(self, model: Any, tokenizer: Any, selection: Selection) -> None:
        self._model, self._selection = model, selection
        longest = positions(model) or USUAL_LENGTH
        encoded = encode(list(selection.items.items()), tokenizer, longest)
        self._batches = {
            tuple(question.index for question in batch): batch
            for batch in fast.batches(model, encoded)
        }

    def batches(self) -> Iterator[tuple[int, ...]]:
        yield from self._batches

    def votes(self, batch: tuple[int, ...]) -> Votes:
        return dict(zip(batch, fast.votes(self._model, self._batches[batch]), strict=True))

    def right(self, index: int, votes: Sequence[Vote]) -> Mapping[str, float]:
        return self._selection.task.right(self._selection.items[index], votes)


class _LmEval:
    """lm-eval, a few dozen rows at a time."""

    _ROWS = 64

    def __init__(self, model: Any, tokenizer: Any, selection: Selection) -> None:
        self._indices = list(selection.items)
        rows = [selection.documents.rows[index] for index in self._indices]
        self._harness = harness.Harness(selection.task, rows)
        self._model = harness.wrapped(model, tokenizer)

    def batches(self) -> Iterator[tuple[int, ...]]:
        for start in range(0, len(self._indices), self._ROWS):
            yield tuple(self._indices[start : start + self._ROWS])

    def votes(self, batch: tuple[int, ...]) -> Votes:
        places = [self._indices.index(index) for index in batch]
        return dict(zip(batch, self._harness.votes(self._model, places), strict=True))

    def right(self, index: int, votes: Sequence[Vote]) -> Mapping[str, float]:
        return self._harness.right(self._indices.index(index), votes)


def check_votes(votes: Votes, task: Task) -> None:
    """Raise PrunescopeError if a likelihood is no number."""
    for index, said in votes.items():
        if not all(math.isfinite(vote.likelihood) for vote in said):
            raise PrunescopeError(
                f"The model answers item {index} of {task.title} with NaN or infinity: there is "
                "nothing to score. Load it in another dtype, or check its weights."
            )
