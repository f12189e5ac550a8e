"""Corpora fetched from the Hugging Face hub through `datasets`.

Small sets are loaded whole and land in the cache of `datasets`; of the big ones only the first
documents of one shard are streamed, so that no one waits for terabytes. The order of the hub is
kept, so the same documents come every time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pruning_core.calibration import wikitext
from pruning_core.calibration.local import DATA_VARIABLE
from pruning_core.calibration.text import Split
from pruning_core.errors import PrunescopeError
from pruning_core.progress import Cancelled, Tick, silent

_ROWS_PER_TICK = 100


@dataclass(frozen=True)
class _Place:
    """Where a split lies on the hub: a data set, and either a configuration or one file of it.

    `take` caps the documents and turns streaming on; None loads the split whole. `column` holds the
    text. `revision` is a branch of the data set; None for its main one.
    """

    dataset: str
    split: str
    config: str | None = None
    file: str | None = None
    take: int | None = None
    column: str = "text"
    revision: str | None = None

    def open(self) -> Iterable[Mapping[str, Any]]:
        """Open the split; reading from what this returns may go to the network again."""
        import datasets  # slow to import, and needed only where the hub is

        files = None if self.file is None else {self.split: self.file}
        return datasets.load_dataset(
            self.dataset,
            self.config,
            data_files=files,
            split=self.split,
            streaming=self.take is not None,
            revision=self.revision,
        )

    def __str__(self) -> str:
        first = "" if self.take is None else f", first {self.take:,} documents"
        return f"hub {self.dataset} {self.config or self.file} {self.split}{first}"


_PLACES: Mapping[tuple[str, Split], _Place] = {
    ("wikitext2", Split.CALIBRATION): _Place(
        "Salesforce/wikitext", "train", config="wikitext-2-raw-v1"
    ),
    ("wikitext2", Split.MEASUREMENT): _Place(
        "Salesforce/wikitext", "test", config="wikitext-2-raw-v1"
    ),
    ("c4", Split.CALIBRATION): _Place(
        "allenai/c4", "train", file="en/c4-train.00000-of-01024.json.gz", take=5_000
    ),
    # The number of documents the Wanda family evaluates C4 on (locuslab/wanda, lib/data.py).
    ("c4", Split.MEASUREMENT): _Place(
        "allenai/c4", "validation", file="en/c4-validation.00000-of-00008.json.gz", take=1_100
    ),
    **{
        (name, Split.MEASUREMENT): _Place(
            "ptb-text-only/ptb_text_only",
            split,
            file=f"penn_treebank/{split}/0000.parquet",
            column="sentence",
            # The data set itself is a script, which `datasets` no longer runs: this is the hub's
            # own conversion of it.
            revision="refs/convert/parquet",
        )
        for name, split in (("ptb", "test"), ("ptb-validation", "validation"))
    },
    ("wikipedia", Split.CALIBRATION): _Place(
        "wikimedia/wikipedia", "train", config="20231101.en", take=5_000
    ),
}


def read(corpus: str, split: Split, tick: Tick = silent) -> tuple[tuple[str, ...], str]:
    """Return the documents of a corpus on the hub, and where they came from.

    Raises:
        PrunescopeError: the hub can't be reached, or does not give the data set.
        Cancelled: `tick` called the work off.
    """
    place = _PLACES[corpus, split]
    documents: list[str] = []
    try:
        for number, row in enumerate(islice(place.open(), place.take)):
            if number % _ROWS_PER_TICK == 0:
                tick("fetching text", number, place.take or 0, corpus)
            documents.append(row[place.column])
    except Cancelled:
        raise
    except Exception as error:
        # Which exception a failed request ends in depends on the HTTP client of the day, and
        # some of those clients derive theirs from Exception itself.
        raise PrunescopeError(
            f"The text of {corpus!r} can't be fetched from the hub ({place.dataset}): "
            f"{type(error).__name__}: {error}. Check the network, use the corpus 'embedded', which "
            f"needs none, or set {DATA_VARIABLE} to a folder that holds the corpora."
        ) from error
    if corpus == "wikitext2" and split == Split.CALIBRATION:
        return wikitext.articles(tuple(documents)), str(place)
    return tuple(documents), str(place)
