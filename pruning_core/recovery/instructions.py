"""Rows of a data set as what is learned from: instructions with their answers, or plain text.

A row is recognised by its columns: ``instruction``, ``input`` (may be missing or empty) and
``output``, as Alpaca has them; ``prompt`` and ``response`` (or ``completion``); or ``text``. Rows
come from a JSON file (a list), a JSONL file (a row a line), or a data set on the hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pruning_core.calibration.local import read_utf8
from pruning_core.errors import PrunescopeError
from pruning_core.progress import Cancelled, Tick, silent

MOST_ROWS = 60_000
"""Of a data set on the hub so many rows are read at the most, from its beginning."""

_ROWS_PER_TICK = 500
_COLUMNS = (("instruction", "output"), ("prompt", "response"), ("prompt", "completion"))
_KNOWN = "'instruction' and 'output' (and 'input'), 'prompt' and 'response', or 'text'"


@dataclass(frozen=True)
class Exchange:
    """A prompt and the answer that is to be learned; a text has an empty prompt."""

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """Both, as the model reads them."""
        return self.prompt + self.answer


def read_file(path: Path) -> tuple[Exchange, ...]:
    """Return the rows of a JSON or JSONL file.

    Raises:
        PrunescopeError: if it cannot be read, or a row is none that is known.
    """
    text = read_utf8(path)
    rows = _json_rows(text, path) if path.suffix.lower() == ".json" else _lines(text, path)
    return exchanges(rows, str(path))


def read_hub(name: str, tick: Tick = silent) -> tuple[Exchange, ...]:
    """Return the first rows of the training split of a data set.

    Args:
        name: ``org/name``, or a folder on this machine; a configuration may follow after a colon.
        tick: hears of rows that are read.

    Raises:
        PrunescopeError: if it can't be fetched, or a row is none that is known.
        Cancelled: by `tick`.
    """
    import datasets  # slow to import, and needed only where a data set is

    place, _, config = name.partition(":")
    rows: list[Mapping[str, Any]] = []
    try:
        split = datasets.load_dataset(place, config or None, split="train", streaming=True)
        for number, row in enumerate(islice(split, MOST_ROWS)):
            if number % _ROWS_PER_TICK == 0:
                tick("fetching text", number, 0, name)
            rows.append(row)
    except Cancelled:
        raise
    except Exception as error:
        # Which exception a failed request ends in depends on the HTTP client of the day.
        raise PrunescopeError(
            f"The data set {name!r} can't be fetched: {type(error).__name__}: {error}. Check its "
            "name and the network, or train on a file of yours ('file:PATH') or on 'embedded'."
        ) from error
    return exchanges(rows, f"the data set {name}")


def exchanges(rows: Iterable[object], where: str) -> tuple[Exchange, ...]:
    """Return rows as exchanges, those without an answer left out.

    Args:
        where: the rows' origin, for sentences.

    Raises:
        PrunescopeError: if a row is none that is known, rows are of several kinds, or none has an
            answer.
    """
    columns: Sequence[str] | None = None
    found: list[Exchange] = []
    for number, row in enumerate(rows, start=1):
        here = f"Row {number} of {where}"
        if not isinstance(row, Mapping):
            raise PrunescopeError(f"{here} is not an object with columns: it needs {_KNOWN}.")
        if columns is None:
            columns = _columns_of(row, here)
        missing = [name for name in columns if not isinstance(row.get(name), str)]
        if missing:
            raise PrunescopeError(
                f"{here} has no text in its column {missing[0]!r}, which the rows before have. "
                "Make all rows alike."
            )
        exchange = _exchange(row, columns)
        if exchange.answer.strip():
            found.append(exchange)
    if not found:
        raise PrunescopeError(f"There is nothing to learn in {where}: no row has an answer.")
    return tuple(found)


def _columns_of(row: Mapping[str, object], here: str) -> Sequence[str]:
    for pair in _COLUMNS:
        if all(name in row for name in pair):
            return pair
    if "text" in row:
        return ("text",)
    has = ", ".join(map(repr, row)) or "no columns"
    raise PrunescopeError(f"{here} has {has}: it needs {_KNOWN}.")


def _exchange(row: Mapping[str, Any], columns: Sequence[str]) -> Exchange:
    if len(columns) == 1:
        return Exchange("", row["text"])
    asked, answer = columns
    if asked == "prompt":
        return Exchange(row[asked], row[answer])
    return Exchange(_alpaca(row[asked], str(row.get("input") or "")), row[answer])


def _alpaca(instruction: str, context: str) -> str:
    """Return the prompt that Alpaca's rows are trained with; models know it word for word."""
    opening = "Below is an instruction that describes a task"
    closing = "Write a response that appropriately completes the request."
    if not context:
        return f"{opening}. {closing}\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    return (
        f"{opening}, paired with an input that provides further context. {closing}\n\n"
        f"### Instruction:\n{instruction}\n\n### Input:\n{context}\n\n### Response:\n"
    )


def _json_rows(text: str, path: Path) -> list[object]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PrunescopeError(
            f"{str(path)!r} is not valid JSON ({error}). Write a list of objects, or one object a "
            "line in a .jsonl file."
        ) from error
    if not isinstance(rows, list):
        raise PrunescopeError(f"{str(path)!r} must be a list of objects; it is none.")
    return rows


def _lines(text: str, path: Path) -> list[object]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise PrunescopeError(
                f"Line {number} of {str(path)!r} is not valid JSON. Write one object a line, or a "
                "list of them in a .json file."
            ) from error
    return rows
