"""Corpora that have been read, kept for all models: a text does not change with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.recent import Recent
from pruning_core.progress import Tick, silent

if TYPE_CHECKING:
    from pruning_core.calibration import Split, Text

KEPT_TEXTS = 6


class Texts:
    """Reads a corpus once; a file of the user's each time, for it may have been edited."""

    def __init__(self) -> None:
        self._known: Recent[tuple[str, Split], Text] = Recent(KEPT_TEXTS)

    def read(self, name: str, split: Split, tick: Tick = silent) -> Text:
        """Return a text by the name of its corpus; see `load_text` for what it raises."""
        from pruning_core.calibration import FILE_PREFIX, load_text

        text = self._known.get((name, split))
        if text is None:
            text = load_text(name, split, tick)
            if not name.startswith(FILE_PREFIX):
                self._known[name, split] = text
        return text
