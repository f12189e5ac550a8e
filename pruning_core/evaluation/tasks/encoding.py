"""From questions to token rows, cut between context and continuation as lm-eval cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

USUAL_LENGTH = 2048
"""Positions of a model whose configuration names none, as in lm-eval."""


@dataclass(frozen=True)
class Row:
    """One request in tokens.

    Attributes:
        ids: context and continuation.
        scored: tokens of the continuation, at the end.
    """

    ids: tuple[int, ...]
    scored: int

    @property
    def read(self) -> tuple[int, ...]:
        """What the model reads: all but the last token, which is only predicted."""
        return self.ids[:-1]


@dataclass(frozen=True)
class Encoded:
    """One question in tokens.

    Attributes:
        index: of the item in its task.
        rows: one for each request.
        shared: how many tokens all rows begin with, of those that are read.
    """

    index: int
    rows: tuple[Row, ...]
    shared: int

    @property
    def cost(self) -> int:
        """Tokens that go through the model for it."""
        return self.shared + sum(len(row.read) - self.shared for row in self.rows)


def encode(
    items: Sequence[tuple[int, Item]], tokenizer: PreTrainedTokenizerBase, longest: int
) -> list[Encoded]:
    """Return items, given with their indices, in tokens; what is too long loses its beginning.

    Raises:
        PrunescopeError: if an answer has no tokens, or more than the model can read.
    """
    encoded = []
    for index, item in items:
        rows = []
        for context, continuation in item.requests:
            ids, scored = _encode_pair(context, continuation, tokenizer)
            if not 1 <= scored <= longest:
                raise PrunescopeError(
                    f"An answer of item {index} has {scored} tokens, and this model can be asked "
                    f"about 1 to {longest}: the item can't be scored."
                )
            rows.append(Row(tuple(ids[-(longest + 1) :]), scored))
        encoded.append(Encoded(index, tuple(rows), _common([row.read for row in rows])))
    return encoded


def _encode_pair(
    context: str, continuation: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], int]:
    """Return the tokens of both, and how many belong to the continuation.

    Spaces that end the context go to the continuation, for the sake of the word they begin.
    """
    if not context:
        ids = tokenizer.encode(continuation, add_special_tokens=False)
        first = tokenizer.bos_token_id
        first = tokenizer.eos_token_id if first is None else first
        return (ids, len(ids) - 1) if ids[:1] == [first] else ([first, *ids], len(ids))
    bare = context.rstrip()
    whole = tokenizer.encode(context + continuation)
    ahead = tokenizer.encode(bare)
    rest = whole[len(ahead) :]
    return [*ahead, *rest], len(rest)


def _common(rows: Sequence[tuple[int, ...]]) -> int:
    """Return the number of tokens that all rows begin with."""
    shortest = min(map(len, rows))
    for place in range(shortest):
        if len({row[place] for row in rows}) > 1:
            return place
    return shortest
