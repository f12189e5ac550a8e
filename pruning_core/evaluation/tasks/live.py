"""Accuracy that follows a slider: a few items of a task, asked again where the model has changed.

As with perplexity, only the layers from the lowest changed one upwards run, see
`pruning_core.evaluation.live`. For that every request is a line of its own, without a key/value
cache; requests that read the same tokens and score others, as a yes and a no do, share a line. All
padding is on the right, where nothing sees it. In exact arithmetic the likelihoods are those of
lm-eval, which a test holds them against.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pruning_core.evaluation.live import LivePasses
from pruning_core.evaluation.tasks.accuracy import Answers, Selection, check_votes, judged
from pruning_core.evaluation.tasks.definitions import Vote
from pruning_core.evaluation.tasks.encoding import USUAL_LENGTH, Encoded, encode
from pruning_core.evaluation.tasks.likelihoods import (
    Wanted,
    collect,
    only_at,
    padded,
    tokens_at_once,
    total,
)
from pruning_core.model.forward import positions
from pruning_core.planning.plan import Plan
from pruning_core.progress import Tick, silent
from pruning_core.surgery.workbench import Workbench

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETS = 2
"""How many complete sets of hidden states are kept: the dense one and the last recipe's."""

STATE_BYTES = 2**30
"""Memory for them at most: a thousand items of a large model would take dozens of times as much.
Batches whose states were forgotten run from the first layer."""

KNOWN = 1000
"""Of how many plans the answers are remembered."""


class LiveTask:
    """Asks a few items under one plan after another, as quickly as the change allows.

    Attributes:
        selection: the items.
    """

    def __init__(
        self, bench: Workbench, tokenizer: PreTrainedTokenizerBase, selection: Selection
    ) -> None:
        """Prepare to ask the items of a selection.

        Raises:
            PrunescopeError: if an answer has no tokens, or more than the model can read.
        """
        self.selection = selection
        self._bench = bench
        longest = positions(bench.model) or USUAL_LENGTH
        self._questions = encode(list(selection.items.items()), tokenizer, longest)
        lines = _lines(self._questions)
        batches = _batches(sorted(lines, key=lambda line: (-len(line), line)), bench)
        self._wanted = [_wanted(batch, lines) for batch in batches]
        ids = [padded(batch)[0] for batch in batches]
        self._passes = LivePasses(bench, ids, sets=SETS, most=STATE_BYTES)
        self._known: OrderedDict[str, Answers] = OrderedDict()

    def measure(self, plan: Plan | None, tick: Tick = silent) -> Answers:
        """Return what the model answers under a plan, None for dense.

        The plan stays applied. If the work fails or is cancelled, the plan before comes back.

        Raises:
            PrunescopeError: if the model answers NaN.
            Cancelled: by `tick`, between batches.
        """
        digest, task = self._passes.digest(plan), self.selection.task

        def told(done: int, batches: int, where: str) -> None:
            tick("asking", done, batches, f"{task.title}, {where}" if where else task.title)

        with self._bench.applied(plan):
            if digest in self._known:
                return self._known[digest]
            found: dict[tuple[int, int], list[Vote]] = {
                (place, number): []
                for place, question in enumerate(self._questions)
                for number in range(len(question.rows))
            }
            runs = self._passes.run(
                plan, lambda batch: only_at(self._bench.model, self._wanted[batch]), told
            )
            for logits, wanted in zip(runs, self._wanted, strict=True):
                collect(logits[0], wanted, found)
            votes = {
                question.index: tuple(
                    total(found[place, number]) for number in range(len(question.rows))
                )
                for place, question in enumerate(self._questions)
            }
            check_votes(votes, task)
        items = self.selection.items
        answers = judged(self.selection, votes, lambda index, said: task.right(items[index], said))
        self._known[digest] = answers
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return answers


_Line = tuple[int, ...]
"""The tokens that the model reads for a request."""


def _lines(questions: Sequence[Encoded]) -> dict[_Line, list[Wanted]]:
    """Return what is to be read, and what is wanted of it; the line's number is still to come."""
    lines: dict[_Line, list[Wanted]] = {}
    for place, question in enumerate(questions):
        for number, row in enumerate(question.rows):
            wanted = lines.setdefault(row.read, [])
            for at in range(len(row.ids) - row.scored, len(row.ids)):
                wanted.append(Wanted(0, at - 1, (place, number), row.ids[at]))
    return lines


def _batches(lines: Sequence[_Line], bench: Workbench) -> list[list[_Line]]:
    """Return lines, the longest first, in batches of similar length."""
    room = tokens_at_once(bench.model)
    found: list[list[_Line]] = []
    for line in lines:
        if found and (len(found[-1]) + 1) * len(found[-1][0]) <= room:
            found[-1].append(line)
        else:
            found.append([line])
    return found


def _wanted(batch: Sequence[_Line], lines: dict[_Line, list[Wanted]]) -> list[Wanted]:
    """Return what is wanted of a batch."""
    return [
        Wanted(number, each.column, each.owner, each.token)
        for number, line in enumerate(batch)
        for each in lines[line]
    ]
