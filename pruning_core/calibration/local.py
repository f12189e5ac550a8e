"""Corpora read from a folder on this machine, and text files of the user's.

Assumes the folder that ``PRUNESCOPE_DATA`` names is laid out as `_READERS` says: one file for
each corpus and split. Never falls back to the hub: a missing file is an error that names it. No
file serves two splits, since a measurement must not read what a calibration has read; a user's own
file is the exception, and the leak guard catches it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from pruning_core.calibration import wikitext
from pruning_core.calibration.text import Split
from pruning_core.errors import PrunescopeError

DATA_VARIABLE = "PRUNESCOPE_DATA"

Documents = tuple[str, ...]

_EXTRACTED_ARTICLE = re.compile(r"^<doc [^\n]*>\n(.*?)^</doc>$", re.DOTALL | re.MULTILINE)


def data_folder() -> Path | None:
    """Return the folder that holds the corpora, None where the user named none.

    Raises:
        PrunescopeError: a folder is named and does not exist.
    """
    named = os.environ.get(DATA_VARIABLE, "").strip()
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise PrunescopeError(
            f"{DATA_VARIABLE} names {str(folder)!r}, which is not a folder. Point it at the folder "
            "that holds the corpora, or unset it to fetch them from the hub."
        )
    return folder


def read(folder: Path, corpus: str, split: Split) -> tuple[Documents, str]:
    """Return the documents of a corpus in `folder`, and where they came from.

    Raises:
        PrunescopeError: the file is missing, unreadable, not UTF-8, or not in its format.
    """
    name, remark, documents_of = _READERS[corpus, split]
    path = place(folder, corpus, split)
    if not path.is_file():
        raise PrunescopeError(
            f"The {split} text of {corpus!r} should be the file {str(path)!r}, which does not "
            f"exist. Put it there, or unset {DATA_VARIABLE} to fetch the corpus from the hub."
        )
    return documents_of(read_utf8(path), path), f"local {name}{remark}"


def place(folder: Path, corpus: str, split: Split) -> Path:
    """Return the file in `folder` that a corpus is read from; it need not be there."""
    return folder / _READERS[corpus, split][0]


def read_utf8(path: Path) -> str:
    """Return the text of a file, with any line ends turned into newlines.

    Raises:
        PrunescopeError: it is missing, a folder, unreadable, not UTF-8, or holds no text.
    """
    try:
        if not path.is_file():
            fault = "is not a file" if path.exists() else "does not exist"
            raise PrunescopeError(f"{str(path)!r} {fault}. Name a text file in UTF-8.")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PrunescopeError(
            f"{str(path)!r} is not UTF-8 text (byte {error.start} can't be read). Save it as UTF-8 "
            "and try again."
        ) from error
    except OSError as error:
        raise PrunescopeError(
            f"{str(path)!r} can't be read: {error.strerror}. Check its path and permissions."
        ) from error
    if not text.strip():
        raise PrunescopeError(f"{str(path)!r} holds no text. Use a file with text in it.")
    return text


def _wikitext_rows(text: str, path: Path) -> Documents:
    return wikitext.rows(text)


def _wikitext_articles(text: str, path: Path) -> Documents:
    return wikitext.articles(wikitext.rows(text))


def _json_lines(text: str, path: Path) -> Documents:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise PrunescopeError(
                f"Line {number} of {str(path)!r} is not a JSON object with a key 'text'. Replace "
                "the file by a whole copy."
            ) from error
        documents.append(str(document))
    return tuple(documents)


def _lines(text: str, path: Path) -> Documents:
    return tuple(line for line in text.split("\n") if line.strip())


def _sentences(text: str, path: Path) -> Documents:
    return tuple(line.strip() for line in _lines(text, path))


def _extracted_articles(text: str, path: Path) -> Documents:
    articles = (match.group(1).strip() for match in _EXTRACTED_ARTICLE.finditer(text))
    documents = tuple(article for article in articles if article)
    if not documents:
        raise PrunescopeError(
            f"{str(path)!r} has no articles: each should stand between a line '<doc ...>' and a "
            "line '</doc>'. Replace the file by a whole copy."
        )
    return documents


# (corpus, split) → (file in the folder, remark for the source, how to cut it into documents)
_READERS: Mapping[tuple[str, Split], tuple[str, str, Callable[[str, Path], Documents]]] = {
    ("wikitext2", Split.CALIBRATION): (
        "wikitext2/valid.txt",
        " (tokenised form with <unk>)",
        _wikitext_articles,
    ),
    ("wikitext2", Split.MEASUREMENT): ("wikitext2/wiki.test.raw", "", _wikitext_rows),
    ("c4", Split.CALIBRATION): ("calibration/c4_short.jsonl", "", _json_lines),
    ("c4", Split.MEASUREMENT): ("calibration/c4_pages.txt", "", _lines),
    ("ptb", Split.MEASUREMENT): ("ptb/ptb.test.txt", "", _sentences),
    ("ptb-validation", Split.MEASUREMENT): ("ptb/ptb.valid.txt", "", _sentences),
    ("wikipedia", Split.CALIBRATION): ("calibration/wikipedia.txt", "", _extracted_articles),
}
