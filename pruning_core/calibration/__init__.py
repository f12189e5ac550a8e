"""Calibration: from the name of a corpus to windows of tokens, and what a model does on them.

A text is read (`load_text`), two texts are kept apart (`guard`), and either is cut into windows of
token ids (`calibration_windows`, `measurement_windows`). Knows tokenizers, not model families.
"""

from pruning_core.calibration.corpora import CORPORA, FILE_PREFIX, Corpus, load_text
from pruning_core.calibration.leak import LeakReport, find_leak, guard
from pruning_core.calibration.local import DATA_VARIABLE
from pruning_core.calibration.text import Split, Text
from pruning_core.calibration.windows import (
    calibration_windows,
    measured_part,
    measurement_windows,
)

__all__ = [
    "CORPORA",
    "DATA_VARIABLE",
    "FILE_PREFIX",
    "Corpus",
    "LeakReport",
    "Split",
    "Text",
    "calibration_windows",
    "find_leak",
    "guard",
    "load_text",
    "measured_part",
    "measurement_windows",
]
