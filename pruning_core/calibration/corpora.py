"""The corpora by name, and the one function that reads them.

Says what each corpus is and decides where it comes from: the running Python, a file of the user's,
the folder in ``PRUNESCOPE_DATA`` if one is named, else the hub. The reading itself is done next
door in `embedded`, `local` and `hub`. Tokens are none of its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pruning_core.calibration import embedded, hub, local
from pruning_core.calibration.text import Split, Text
from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.progress import Tick, silent

FILE_PREFIX = "file:"

_BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class Corpus:
    """A corpus as the user meets it.

    Attributes:
        name: what `load_text` takes.
        title: its name for people.
        description: one sentence on what it is and what to use it for.
        splits: what it can serve as.
        joiner: what a measurement puts between its documents.
    """

    name: str
    title: str
    description: str
    splits: tuple[Split, ...]
    joiner: str


_BOTH = (Split.CALIBRATION, Split.MEASUREMENT)

CORPORA: Mapping[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "embedded",
            "Python help topics",
            "English prose on the Python language, shipped with Python itself: needs no network.",
            _BOTH,
            _BLANK_LINE,
        ),
        Corpus(
            "wikitext2",
            "WikiText-2",
            "Good and featured Wikipedia articles; its raw test split is what papers report "
            "perplexity on.",
            _BOTH,
            _BLANK_LINE,
        ),
        # A space between documents, as the Wanda family joins C4 (locuslab/wanda, lib/data.py).
        Corpus(
            "c4",
            "C4",
            "Web pages, cleaned: what most papers calibrate on.",
            _BOTH,
            " ",
        ),
        # SparseGPT, GPTQ and DaSS join its test sentences by a space, LLM-Pruner and FLAP those of
        # the validation split by a blank line: two texts.
        Corpus(
            "ptb",
            "Penn Treebank test",
            "Newspaper sentences in lower case, rare words written <unk>: far from what models of "
            "today were trained on.",
            (Split.MEASUREMENT,),
            " ",
        ),
        Corpus(
            "ptb-validation",
            "Penn Treebank validation",
            "The same newspaper's other sentences, joined by blank lines as LLM-Pruner does.",
            (Split.MEASUREMENT,),
            _BLANK_LINE,
        ),
        Corpus(
            "wikipedia",
            "Wikipedia",
            "English Wikipedia articles as plain text, to calibrate on.",
            (Split.CALIBRATION,),
            _BLANK_LINE,
        ),
    )
}


def load_text(name: str, split: Split, tick: Tick = silent) -> Text:
    """Read one split of a corpus.

    Args:
        name: a key of `CORPORA`, or ``"file:PATH"`` for a text file in UTF-8, which is one
            document and serves both splits.
        split: what the text is for.
        tick: told about documents fetched from the hub.

    Raises:
        PrunescopeError: the name is unknown, the corpus does not serve the split, or its text
            can't be read, each with the cure.
        Cancelled: `tick` called the work off.
    """
    tick("reading text", 0, 1, name)
    if name.startswith(FILE_PREFIX):
        return _user_file(name, split)
    if name not in CORPORA:
        raise unknown_name("corpus", name, [*CORPORA, f"{FILE_PREFIX}PATH"])
    corpus = CORPORA[name]
    if split not in corpus.splits:
        others = ", ".join(other.name for other in CORPORA.values() if split in other.splits)
        raise PrunescopeError(
            f"{corpus.title} has no {split} text: a measurement must not read what a calibration "
            f"has read, and it is used for the other alone. For {split} use: {others}."
        )
    if name == "embedded":
        documents, source = embedded.read(split)
    elif (folder := local.data_folder()) is not None:
        documents, source = local.read(folder, name, split)
    else:
        documents, source = hub.read(name, split, tick)
    return Text(name, split, documents, corpus.joiner, source)


def _user_file(name: str, split: Split) -> Text:
    """Read the file that ``file:PATH`` names as a text of one document."""
    written = name.removeprefix(FILE_PREFIX).strip()
    if not written:
        raise PrunescopeError(f"{name!r} names no file. Write the path after {FILE_PREFIX!r}.")
    path = Path(written).expanduser()
    return Text(name, split, (local.read_utf8(path),), _BLANK_LINE, f"file {path.name}")
