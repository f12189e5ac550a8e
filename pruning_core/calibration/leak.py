"""The guard against judging a pruned model on the text it was calibrated on.

Compares texts by runs of 13 words, as Brown et al. 2020 (arXiv 2005.14165, appendix C) look for
test sets in training data: lower case, no punctuation, so that WikiText's spaced punctuation does
not hide a match. Sees copies, not paraphrases; text without spaces between its words is compared
by whatever stands between two punctuation marks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pruning_core.calibration.text import Text
from pruning_core.errors import PrunescopeError

_RUN = 13

# Boilerplate such as licence lines and cookie notices is shared by texts that have nothing else
# in common; a leak is more than that.
_LEAK_ABOVE = 0.01

_WORD = re.compile(r"\w+")

# An odd multiplier keeps all 64 bits of a rolling hash in play (Knuth, TAOCP vol. 3, 6.4).
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class LeakReport:
    """How much two texts have in common.

    Attributes:
        shared: distinct 13-word runs of the calibration text that the measurement text has too.
        total: distinct 13-word runs of the smaller of the two texts. The smaller, so that a test
            set hidden in a large calibration text counts in full.
    """

    shared: int
    total: int

    @property
    def share(self) -> float:
        """`shared` of `total`, 0 to 1; 0 for texts without words."""
        return self.shared / self.total if self.total else 0.0

    @property
    def leaking(self) -> bool:
        """Whether more than 1 % is shared."""
        return self.share > _LEAK_ABOVE

    def sentence(self) -> str:
        """Return the finding in words."""
        if not self.shared:
            return "Calibration and measurement text have no run of 13 words in common."
        verdict = "they overlap" if self.leaking else "no more than common phrases"
        return (
            f"Calibration and measurement text share {self.shared:,} of {self.total:,} runs of 13 "
            f"words ({self.share:.1%}): {verdict}."
        )


@lru_cache(maxsize=8)  # while somebody tunes, the same two texts are compared at every step
def find_leak(calibration: Text, measurement: Text) -> LeakReport:
    """Compare two texts by their runs of 13 words; a text of fewer words is compared as a whole."""
    first, second = _word_hashes(calibration), _word_hashes(measurement)
    run = min(_RUN, len(first), len(second))
    if run == 0:
        return LeakReport(shared=0, total=0)
    first_runs, second_runs = _runs(first, run), _runs(second, run)
    shared = np.intersect1d(first_runs, second_runs, assume_unique=True)
    return LeakReport(shared=len(shared), total=min(len(first_runs), len(second_runs)))


def guard(calibration: Text, measurement: Text, *, allow: bool) -> bool:
    """Refuse to measure on calibration text, unless allowed.

    Returns:
        Whether the texts overlap, so that every number measured must be marked.

    Raises:
        PrunescopeError: they overlap and `allow` is False.
    """
    report = find_leak(calibration, measurement)
    if report.leaking and not allow:
        raise PrunescopeError(
            f"{report.sentence()} A model judged on the text it was calibrated on looks better "
            f"than it is. Choose another corpus than {calibration.corpus!r} to calibrate on or "
            f"than {measurement.corpus!r} to measure on, or allow the overlap: every number is "
            "then marked."
        )
    return report.leaking


def _word_hashes(text: Text) -> npt.NDArray[np.uint64]:
    """Return one 64-bit hash for each word of the text, in order."""
    words = _WORD.findall(text.joined.lower())
    return np.fromiter((hash(word) for word in words), np.int64, len(words)).astype(np.uint64)


def _runs(words: npt.NDArray[np.uint64], run: int) -> npt.NDArray[np.uint64]:
    """Return the distinct hashes of all runs of `run` words, sorted; arithmetic modulo 2**64."""
    count = len(words) - run + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(run):
        hashes = hashes * _MULTIPLIER + words[offset : offset + count]
    return np.unique(hashes)
