"""Rows of two small tasks in a folder for data: BoolQ and PIQA, of words that name their number."""

from __future__ import annotations

import json
from pathlib import Path

ROWS = 40


def write(folder: Path) -> None:
    """Write both tasks, whole."""
    boolq, piqa = ([words(number) for number in range(ROWS)] for words in (_boolq, _piqa))
    _write(folder / "tasks" / "boolq" / "dev.jsonl", boolq)
    _write(folder / "tasks" / "piqa" / "valid.jsonl", piqa)
    labels = "\n".join(str(number % 2) for number in range(ROWS))
    (folder / "tasks" / "piqa" / "valid-labels.lst").write_text(labels)


def _boolq(number: int) -> dict[str, object]:
    return {"question": f"is {number} so", "passage": f"{number} is.", "answer": bool(number % 3)}


def _piqa(number: int) -> dict[str, object]:
    return {"goal": f"go {'on ' * (number % 9)}{number}", "sol1": f"to {number}", "sol2": "or not"}


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
