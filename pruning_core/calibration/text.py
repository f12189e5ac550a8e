"""What a corpus hands over: one split of it as documents, and the word on where they came from.

Holds the two words the rest of the room speaks in, `Split` and `Text`. Knows no corpus, reads no
file and no tokenizer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property


class Split(StrEnum):
    """What a text is for: scoring weights, or judging the model afterwards."""

    CALIBRATION = "calibration"
    MEASUREMENT = "measurement"


@dataclass(frozen=True)
class Text:
    """One split of a corpus.

    Attributes:
        corpus: the name it was asked for by, such as ``"wikitext2"``.
        split: what it is for.
        documents: its documents (rows, pages, articles) in the order of the corpus.
        joiner: what a measurement puts between two documents; part of the protocol, since it
            changes the tokens and with them the perplexity.
        source: where the bytes came from, in a few words for people.
    """

    corpus: str
    split: Split
    documents: tuple[str, ...]
    joiner: str
    source: str

    @cached_property
    def joined(self) -> str:
        """The documents as one string, as a measurement reads them."""
        return self.joiner.join(self.documents)

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the joined text in UTF-8: two equal digests are one text."""
        return hashlib.sha256(self.joined.encode()).hexdigest()
