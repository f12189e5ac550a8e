"""From text to tokens: seeded windows to calibrate on, consecutive windows to measure on.

Assumes a Hugging Face tokenizer. Windows are token ids on the CPU, every one full, no padding, and
those of one call never overlap. `measured_part` leads back from windows to the text they hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import torch

from pruning_core.calibration.text import Text
from pruning_core.errors import PrunescopeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Calibration reads this many times the tokens it was asked for before it chooses among them, so
# that a big corpus costs no more than a small one and the windows still come from all over.
_SPREAD = 4

# Longer documents are cut at a line end, so that a book of the user's in one file is read in part
# and from random places too.
_LONGEST_DOCUMENT = 100_000

_SHORTEST_WINDOW = 2  # one token to read and one to predict


class Bos(StrEnum):
    """Where the begin-of-text token stands in measured text.

    `ONCE` is the field's usual way: at most one, at the very start of the text, where the tokenizer
    puts one by itself. `EVERY` puts it in front of every window. `FAMILY` is `EVERY` for the
    families that go astray without it, which is Gemma, and `ONCE` for all others.
    """

    ONCE = "once"
    EVERY = "every window"
    FAMILY = "as the family needs"

    def resolved(self, tokenizer: PreTrainedTokenizerBase) -> Bos:
        """Return `ONCE` or `EVERY`: what this comes to for a model, by its tokenizer."""
        if self is not Bos.FAMILY:
            return self
        # Gemma 2B on WikiText-2: 649.7 without, 21.1 with (Nota-NetsPresso/shortened-llm, 6).
        needs_it = type(tokenizer).__name__.startswith("Gemma")
        return Bos.EVERY if needs_it and tokenizer.bos_token_id is not None else Bos.ONCE


@dataclass(frozen=True, eq=False)
class Span:
    """A stretch of text for one forward pass.

    Attributes:
        ids: token ids, int64 [tokens].
        scored: how many of them count, from the end; those before are read as context.
    """

    ids: torch.Tensor
    scored: int


def calibration_windows(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    length: int,
    seed: int,
    at_most: bool = False,
) -> torch.LongTensor:
    """Cut windows at random places out of the documents, packed end to end.

    The documents are shuffled, tokenised without special tokens and each closed by the
    end-of-text token where the tokenizer has one. Every way to lay `count` windows into the packed
    tokens without overlap is equally likely, and so is their order. The same arguments give the
    same windows.

    Args:
        text: what to calibrate on.
        tokenizer: the one of the model.
        count: number of windows.
        length: tokens in a window; a window may run across documents, so any length will do that
            the whole text can fill.
        seed: decides documents and places.
        at_most: take fewer windows, at least one, where the text has no more.

    Returns:
        Token ids, int64, [count, length].

    Raises:
        PrunescopeError: the text is too small, or `count` or `length` is out of range.
    """
    if count < 1:
        raise PrunescopeError(
            f"The number of calibration windows is {count}; it must be 1 or more."
        )
    _check_length(length)
    chance = random.Random(seed)
    needed = count * length
    packed: list[int] = []
    for document in _shuffled(text, chance):
        packed += tokenizer(document, add_special_tokens=False, verbose=False).input_ids
        if tokenizer.eos_token_id is not None:
            packed.append(tokenizer.eos_token_id)
        if len(packed) >= _SPREAD * needed:
            break
    if at_most and length <= len(packed) < needed:
        count = len(packed) // length
        needed = count * length
    if len(packed) < needed:
        raise PrunescopeError(
            f"The calibration text {text.corpus!r} ({text.source}) has {len(packed):,} tokens, and "
            f"{count} windows of {length} need {needed:,}. Lower the number or the length of the "
            "windows, or use a longer text."
        )
    # Shrink every window to a point: distinct points among the free tokens and the windows are
    # exactly the layouts without overlap. Each window before a point then pushes it on.
    points = sorted(chance.sample(range(len(packed) - needed + count), count))
    starts = [point + rank * (length - 1) for rank, point in enumerate(points)]
    chance.shuffle(starts)
    tokens = torch.tensor(packed)
    return torch.stack([tokens[start : start + length] for start in starts])  # type: ignore[return-value]


def measurement_windows(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    limit: int | None = None,
    bos: bool | Bos = False,
) -> torch.LongTensor:
    """Cut the whole text into consecutive windows, as perplexities are reported on.

    The joined text is tokenised once, as the tokenizer does by itself: at most one
    begin-of-text token, at the very start. Windows do not overlap and the tail is dropped.

    Args:
        text: what to measure on.
        tokenizer: the one of the model.
        length: tokens in a window.
        limit: at most this many windows, from the start; None for all.
        bos: whether the begin-of-text token stands in front of every window, for models that go
            astray without it. It counts towards `length`, so a window then holds one token of text
            less.

    Returns:
        Token ids, int64, [windows, length].

    Raises:
        PrunescopeError: the text fills no window, the tokenizer has no begin-of-text token
            though `bos` asks for it, or `length` or `limit` is out of range.
    """
    tokens, front = _measured_tokens(text, tokenizer, length, limit, bos)
    stride = length - len(front)
    windows = len(tokens) // stride
    if windows == 0:
        raise _too_short(text, len(tokens), length)
    if limit is not None:
        windows = min(windows, limit)
    cut = tokens[: windows * stride].view(windows, stride)
    return torch.cat([front.expand(windows, -1), cut], dim=1)  # type: ignore[return-value]


def sliding_spans(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    stride: int,
    limit: int | None = None,
    bos: bool | Bos = False,
) -> tuple[Span, ...]:
    """Lay overlapping windows over the whole text, so that every token is predicted in context.

    Each window starts `stride` tokens after the one before and scores what that one has not read.
    The last may be shorter: no token of the text is dropped, and only the first is never scored,
    unless a begin-of-text token stands before it.

    Args:
        text: what to measure on.
        tokenizer: the one of the model.
        length: tokens in a window, a begin-of-text token in front of it included.
        stride: tokens from one window's start to the next one's.
        limit: at most this many windows, from the start; None for all.
        bos: whether the begin-of-text token stands in front of every window.

    Raises:
        PrunescopeError: the text fills no window, the tokenizer has no begin-of-text token
            though `bos` asks for it, or a number is out of range.
    """
    tokens, front = _measured_tokens(text, tokenizer, length, limit, bos)
    room = length - len(front)
    if not 1 <= stride <= room:
        raise PrunescopeError(
            f"The stride is {stride}; in windows with room for {room} tokens of text it must be "
            f"from 1 to {room}, so that no token is passed over."
        )
    if len(tokens) < room:
        raise _too_short(text, len(tokens), length)
    spans: list[Span] = []
    read = 0
    while read < len(tokens) and (limit is None or len(spans) < limit):
        start = len(spans) * stride
        end = min(start + room, len(tokens))
        ids = torch.cat([front, tokens[start:end]])
        spans.append(Span(ids, min(end - read, len(ids) - 1)))
        read = end
    return tuple(spans)


def whole_spans(windows: torch.Tensor) -> tuple[Span, ...]:
    """Return windows, int64 [windows, tokens], as spans that score all but their first token."""
    return tuple(Span(ids, len(ids) - 1) for ids in windows)


def _measured_tokens(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    limit: int | None,
    bos: bool | Bos,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of a text, and what stands in front of every window: one token or none."""
    _check_length(length)
    if limit is not None and limit < 1:
        raise PrunescopeError(f"The limit of windows is {limit}; it must be 1 or more, or none.")
    every = bos.resolved(tokenizer) is Bos.EVERY if isinstance(bos, Bos) else bos
    if every and tokenizer.bos_token_id is None:
        raise PrunescopeError(
            "This tokenizer has no begin-of-text token to put in front of every window. Measure "
            "without it."
        )
    tokens = tokenizer(text.joined, add_special_tokens=not every, verbose=False).input_ids
    front = [tokenizer.bos_token_id] if every else []
    return torch.tensor(tokens, dtype=torch.long), torch.tensor(front, dtype=torch.long)


def _too_short(text: Text, tokens: int, length: int) -> PrunescopeError:
    return PrunescopeError(
        f"The measurement text {text.corpus!r} ({text.source}) has {tokens:,} tokens and fills no "
        f"window of {length}. Use a shorter window or a longer text."
    )


def measured_part(text: Text, windows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> Text:
    """Return the part of a text that its windows hold: what is really measured.

    Read back from the tokens, so it is the text up to what the tokenizer drops, such as case or
    repeated spaces. The windows stand end to end, because a cut may lie inside a word.

    Args:
        text: where the windows come from.
        windows: of `measurement_windows`, int64 [windows, tokens].
        tokenizer: the one that made them.
    """
    documents = tokenizer.batch_decode(windows, skip_special_tokens=True)
    return replace(text, documents=tuple(documents), joiner="")


def _check_length(length: int) -> None:
    """Raise for a window in which there is nothing to predict."""
    if length < _SHORTEST_WINDOW:
        raise PrunescopeError(
            f"The window length is {length}; it must be {_SHORTEST_WINDOW} or more, one token to "
            "read and one to predict."
        )


def _shuffled(text: Text, chance: random.Random) -> Iterator[str]:
    """Yield the documents that are not blank, long ones in parts, in random order."""
    parts = [part for document in text.documents for part in _parts(document) if part.strip()]
    chance.shuffle(parts)
    yield from parts


def _parts(document: str) -> Iterator[str]:
    """Yield a document whole, or cut at line ends where it is very long."""
    start = 0
    while len(document) - start > _LONGEST_DOCUMENT:
        line_end = document.rfind("\n", start, start + _LONGEST_DOCUMENT)
        stop = line_end + 1 if line_end > start else start + _LONGEST_DOCUMENT
        yield document[start:stop]
        start = stop
    yield document[start:]
