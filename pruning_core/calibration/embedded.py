"""The corpus that needs no network: Python's own help topics, cut in two halves by topic.

Assumes that `pydoc_data.topics` is part of the running Python; its wording moves a little from
version to version, so the source names the version. The half a topic belongs to depends on its
name alone and stays. Python repeats whole sections under several topics (``for`` stands again in
``compound``), which would put the same text in both halves: every paragraph is kept once.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping

from pruning_core.calibration.text import Split
from pruning_core.errors import PrunescopeError

# A topic that keeps less than this of its text was a repetition of another: what is left of it
# is its heading.
_WORTH_KEEPING = 0.5


def read(split: Split) -> tuple[tuple[str, ...], str]:
    """Return one half of the help topics as documents, and where they came from.

    Raises:
        PrunescopeError: this Python was installed without its help topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise PrunescopeError(
            "This Python was installed without its help topics (pydoc_data), which are the "
            "embedded corpus. Use another corpus or a text file of your own ('file:PATH')."
        ) from error
    documents = tuple(
        text for name, text in without_repetitions(topics).items() if half_of(name) == split
    )
    return documents, f"Python {sys.version_info.major}.{sys.version_info.minor} pydoc topics"


def half_of(topic: str) -> Split:
    """Return the half a topic belongs to, by the sha256 of its name."""
    odd = hashlib.sha256(topic.encode()).digest()[-1] % 2
    return Split.MEASUREMENT if odd else Split.CALIBRATION


def without_repetitions(topics: Mapping[str, str]) -> dict[str, str]:
    """Return the topics, sorted by name, with every paragraph kept once.

    The longest topic that has a paragraph keeps it, so that the collecting topics stay whole and
    the excerpts from them go. Paragraphs are compared without regard to their line breaks and
    indentation.
    """
    seen: set[str] = set()
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        fresh = []
        for paragraph in topics[name].strip().split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                fresh.append(paragraph)
        text = "\n\n".join(fresh)
        if len(text) > _WORTH_KEEPING * len(topics[name]):
            kept[name] = text
    return dict(sorted(kept.items()))
