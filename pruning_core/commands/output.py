"""What commands tell: stages and notes on stderr, results on stdout or in a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from pruning_core.progress import Tick


def narrator() -> Tick:
    """Tell the stages on stderr, at most twice a second, on one line where it is a terminal."""
    last_stage, last_time = "", 0.0

    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        heading = f"{stage} {note}" if stage == "measuring" else stage
        if heading == last_stage and (now - last_time < 0.5 or not sys.stderr.isatty()):
            return
        last_stage, last_time = heading, now
        figures = f" {done}/{total}" if total else ""
        end = "\r" if sys.stderr.isatty() else "\n"
        print(f"{stage}{figures} {note}".ljust(60), end=end, file=sys.stderr, flush=True)

    return tick


def note(sentence: str) -> None:
    """Tell something on stderr, over what is left of the last stage."""
    print(sentence.ljust(60), file=sys.stderr)


def emit(target: str | None, as_json: Callable[[], str], as_text: Callable[[], None]) -> None:
    """Print a result: as JSON for the target ``-``, else as text, and write JSON to a target.

    Raises:
        PrunescopeError: if the target cannot be written; the text is printed by then.
    """
    from pruning_core.runs import write_text

    if target == "-":
        print(as_json())
        return
    as_text()
    if target:
        write_text(Path(target), as_json())
