"""What is learned from: a text by its name, cut into samples of tokens.

Names are those of our corpora, whose calibration split is read (`embedded`, `c4`, ...);
``file:PATH`` for a text, or for rows where it ends in .json or .jsonl; and ``hub:ORG/NAME`` for
rows of a data set. Of a text every token is learned, of an exchange those of the answer only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pruning_core.calibration import (
    FILE_PREFIX,
    Split,
    Text,
    calibration_windows,
    guard,
    load_text,
    measured_part,
)
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.protocol import Protocol
from pruning_core.progress import Tick, silent
from pruning_core.recovery.instructions import Exchange, read_file, read_hub
from pruning_core.recovery.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB_PREFIX = "hub:"

_ROW_FILES = (".json", ".jsonl")
_ALL = 1_000_000
"""More windows than any text has that fits in memory."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A stretch of tokens.

    Attributes:
        ids: int64 [tokens].
        learned: the position of the first token that is learned to predict, 1 or more.
    """

    ids: torch.Tensor
    learned: int

    @property
    def predicted(self) -> int:
        """How many tokens are learned."""
        return len(self.ids) - self.learned


@dataclass(frozen=True, eq=False)
class Lessons:
    """Samples, and the text that they come from.

    Attributes:
        text: all of it, for the guard against measuring on it.
        samples: at least one.
    """

    text: Text
    samples: tuple[Sample, ...]


def read_lessons(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, tick: Tick = silent
) -> Lessons:
    """Read a recovery's text and cut it into samples.

    Raises:
        PrunescopeError: if there is no such text, or it is too short or of the wrong form.
        Cancelled: by `tick`.
    """
    name = settings.text
    if name.startswith(FILE_PREFIX) and name.strip().lower().endswith(_ROW_FILES):
        path = Path(name.removeprefix(FILE_PREFIX).strip()).expanduser()
        rows, source = read_file(path), f"file {path.name}"
    elif name.startswith(HUB_PREFIX):
        place = name.removeprefix(HUB_PREFIX).strip()
        # Where it lies on this machine is nobody else's business.
        told = Path(place).name if Path(place).is_dir() else place
        rows, source = read_hub(place, tick), f"data set {told}"
    else:
        return _of_text(load_text(name, Split.CALIBRATION, tick), settings, tokenizer)
    documents = tuple(row.text for row in rows)
    text = Text(name, Split.CALIBRATION, documents, "\n\n", source)
    if not any(row.prompt for row in rows):
        return _of_text(text, settings, tokenizer)
    return Lessons(text, _of_exchanges(rows, settings, tokenizer, tick))


def probe_windows(
    protocol: Protocol,
    lessons: Lessons,
    tokenizer: PreTrainedTokenizerBase,
    *,
    allow_leak: bool = False,
    tick: Tick = silent,
) -> tuple[torch.Tensor, bool]:
    """Return the windows that show how training goes, and whether they were trained on.

    Args:
        protocol: of windows that do not overlap.
        allow_leak: let the two texts overlap.

    Returns:
        int64 [windows, tokens], and whether the texts overlap.

    Raises:
        PrunescopeError: if they overlap and may not, or the text can't be had.
        Cancelled: by `tick`.
    """
    text = load_text(protocol.corpus, Split.MEASUREMENT, tick)
    windows = torch.stack([span.ids for span in protocol.spans(text, tokenizer)])
    leaked = guard(lessons.text, measured_part(text, windows, tokenizer), allow=allow_leak)
    return windows, leaked


def _of_text(text: Text, settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Lessons:
    count = _ALL if settings.steps is None else settings.steps * settings.batch
    windows = calibration_windows(
        text, tokenizer, count=count, length=settings.length, seed=settings.seed, at_most=True
    )
    return Lessons(text, tuple(Sample(ids, 1) for ids in windows))


def _of_exchanges(
    rows: Sequence[Exchange], settings: Settings, tokenizer: PreTrainedTokenizerBase, tick: Tick
) -> tuple[Sample, ...]:
    """Return as many exchanges as are needed, drawn from all of them; long ones are cut."""
    needed = len(rows) if settings.steps is None else settings.steps * settings.batch
    order = list(rows)
    random.Random(settings.seed).shuffle(order)
    opening = tokenizer("", verbose=False).input_ids[:1]
    opening = opening if opening == [tokenizer.bos_token_id] else []
    closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    samples: list[Sample] = []
    for number, row in enumerate(order):
        if len(samples) == needed:
            break
        if number % 1000 == 0:
            tick("reading text", number, len(order), settings.text)
        prompt, answer = (
            tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
            for piece in (row.prompt, row.answer)
        )
        asked = [*opening, *prompt]
        ids = [*asked, *answer, *closing][: settings.length]
        learned = max(len(asked), 1)
        if learned < len(ids):
            samples.append(Sample(torch.tensor(ids), learned))
    if not samples:
        raise PrunescopeError(
            f"Every prompt of {settings.text!r} fills the {settings.length} tokens of a sample, "
            "which leaves no answer to learn. Allow longer samples."
        )
    return tuple(samples)
