"""The rows of the tasks, from a folder on this machine or from the hub, in the hub's layout.

Where ``PRUNESCOPE_DATA`` names a folder, the original files are read from its ``tasks``, and a
missing or broken one is an error that names it; without that variable the hub is asked.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_core.calibration.corpora import load_text
from pruning_core.calibration.local import DATA_VARIABLE, data_folder, place
from pruning_core.calibration.text import Split
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import Document, Item, Task

_SENTENCES = 4
"""Passages for last words have at most so many sentences, about LAMBADA's."""

_SENTENCE_END = re.compile(r"(?<=[a-z]{3} \.) (?=[A-Z])")

_WORD = re.compile(r"[a-z]{3,}")


@dataclass(frozen=True)
class Documents:
    """The rows of a task.

    Attributes:
        rows: in the layout of the hub's data set.
        source: where they came from, in a few words for people.
        sha256: hex digest of the rows: two equal digests are one test set.
    """

    rows: tuple[Document, ...]
    source: str

    @property
    def sha256(self) -> str:
        """Hex digest of the rows."""
        text = json.dumps(self.rows, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def local_files(task: Task, folder: Path) -> tuple[Path, ...]:
    """Return the files in a folder of data that a task is read from; they need not be there."""
    if task.name == "last_word":
        return (place(folder, "wikitext2", Split.MEASUREMENT),)
    return tuple(folder / "tasks" / name for name in _LOCAL[task.name][1:])


def read_documents(task: Task) -> Documents:
    """Return all rows of a task.

    Raises:
        PrunescopeError: if they are missing, damaged or can't be fetched.
    """
    if task.name == "last_word":
        text = load_text("wikitext2", Split.MEASUREMENT)
        return Documents(tuple(_passages(text.documents)), text.source)
    folder = data_folder()
    if folder is None:
        return _from_hub(task)
    reader, *names = _LOCAL[task.name]
    paths = local_files(task, folder)
    try:
        rows = tuple(reader(*paths))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise PrunescopeError(
            f"A row of {str(paths[0])!r} is not laid out as {task.title} is "
            f"({type(error).__name__}: {error}). Replace the file by a whole copy."
        ) from error
    if not rows:
        raise PrunescopeError(f"{str(paths[0])!r} has no rows. Replace it by a whole copy.")
    return Documents(rows, f"local tasks/{names[0]}")


def make_items(task: Task, documents: Documents) -> tuple[Item, ...]:
    """Return the questions that the rows ask.

    Raises:
        PrunescopeError: if a row lacks what the task needs.
    """
    items = []
    for number, row in enumerate(documents.rows):
        try:
            items.append(task.item(row))
        except (KeyError, TypeError, ValueError, AttributeError, PrunescopeError) as error:
            raise PrunescopeError(
                f"Row {number} of {task.title} ({documents.source}) is not laid out as it should "
                f"be ({type(error).__name__}: {error}). Replace the file by a whole copy."
            ) from error
    return tuple(items)


def _from_hub(task: Task) -> Documents:
    """Fetch what lm-eval's own definition names."""
    from pruning_core.evaluation.tasks.harness import definition

    config = definition(task)
    place = f"{config['dataset_path']} {config.get('dataset_name') or ''} {task.split}"
    try:
        import datasets

        loaded = datasets.load_dataset(
            config["dataset_path"], config.get("dataset_name"), split=task.split
        )
        rows = tuple(dict(row) for row in loaded)
    except Exception as error:
        # What a failed request ends in depends on the HTTP client of the day.
        raise PrunescopeError(
            f"The rows of {task.title} can't be fetched from the hub ({place}): "
            f"{type(error).__name__}: {error}. Check the network, or set {DATA_VARIABLE} to a "
            "folder that holds them under 'tasks'."
        ) from error
    return Documents(rows, f"hub {place}")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines, compressed where its name ends in .gz."""
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PrunescopeError(
                f"Line {number} of {str(path)!r} is no JSON: the file is damaged, or its download "
                "broke off. Replace it by a whole copy."
            ) from error
        if not isinstance(row, dict):
            raise PrunescopeError(
                f"Line {number} of {str(path)!r} is no JSON object. Replace it by a whole copy."
            )
        yield row


def _text(path: Path) -> str:
    if not path.is_file():
        raise PrunescopeError(
            f"{str(path)!r} does not exist. Put the file there, or unset {DATA_VARIABLE} to fetch "
            "the task from the hub."
        )
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise PrunescopeError(
            f"{str(path)!r} is damaged, or its download broke off ({error}). Replace it by a whole "
            "copy."
        ) from error
    except OSError as error:
        raise PrunescopeError(
            f"{str(path)!r} can't be read: {error.strerror}. Check its permissions."
        ) from error


def _boolq(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield {
            "question": row["question"],
            "passage": row["passage"],
            "label": int(bool(row["answer"])),
        }


def _piqa(path: Path, labels: Path) -> Iterator[Document]:
    rows, gold = list(_rows(path)), _text(labels).split()
    if len(rows) != len(gold):
        raise PrunescopeError(
            f"{str(path)!r} has {len(rows)} rows and {str(labels)!r} has {len(gold)} labels: one "
            "of them is not whole. Replace both."
        )
    for row, label in zip(rows, gold, strict=True):
        yield {**{key: row[key] for key in ("goal", "sol1", "sol2")}, "label": int(label)}


def _hellaswag(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield {
            **{key: row[key] for key in ("activity_label", "ctx_a", "ctx_b", "endings")},
            "label": str(row["label"]),
        }


def _winogrande(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield {key: row[key] for key in ("sentence", "option1", "option2", "answer")}


def _arc(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield {"question": row["question"]["stem"], **_answers(row)}


def _openbookqa(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield {"question_stem": row["question"]["stem"], **_answers(row)}


def _answers(row: Mapping[str, Any]) -> dict[str, Any]:
    choices = row["question"]["choices"]
    return {
        "choices": {key: [choice[key] for choice in choices] for key in ("text", "label")},
        "answerKey": row["answerKey"],
    }


def _lambada(path: Path) -> Iterator[Document]:
    for row in _rows(path):
        yield {"text": row["text"]}


def _passages(rows: tuple[str, ...]) -> Iterator[Document]:
    """Yield passages that end before a full stop, with a plain word that stands in them before."""
    for row in rows:
        sentences = _SENTENCE_END.split(row.strip())
        for last in range(1, len(sentences)):
            passage = sentences[max(last + 1 - _SENTENCES, 0) : last + 1]
            words = " ".join(passage).removesuffix(" .").split(" ")
            if _WORD.fullmatch(words[-1]) and words[-1] in words[:-1]:
                yield {"text": " ".join(words)}


# task → (what reads it, its files under ``tasks``)
_LOCAL: Mapping[str, tuple[Any, ...]] = {
    "boolq": (_boolq, "boolq/dev.jsonl"),
    "piqa": (_piqa, "piqa/valid.jsonl", "piqa/valid-labels.lst"),
    "hellaswag": (_hellaswag, "hellaswag/hellaswag_val.jsonl.gz"),
    "winogrande": (_winogrande, "winogrande/dev.jsonl"),
    "arc_easy": (_arc, "arc/ARC-Easy-Test.jsonl"),
    "arc_challenge": (_arc, "arc/ARC-Challenge-Test.jsonl"),
    "openbookqa": (_openbookqa, "openbookqa/test.jsonl"),
    "lambada_openai": (_lambada, "lambada/lambada_test.jsonl"),
}
