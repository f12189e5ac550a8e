"""``report``: runs, evaluations and surveys as one HTML file to send round."""

from __future__ import annotations

import argparse
from pathlib import Path

from pruning_core.errors import PrunescopeError
from pruning_core.files import written_whole
from pruning_core.history.saved import parse

HELP = "one self-contained HTML file of runs, evaluations and surveys"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="what prune, evaluate or survey wrote with --json, or a saved run",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the HTML file")
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: names the model)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at --out")


def run(options: argparse.Namespace) -> None:
    """Read the files, and write the page whole or not at all.

    Raises:
        PrunescopeError: if a file cannot be read or is of another kind, or the page cannot be
            written; nothing is then.
    """
    from pruning_core.report import report_of

    if options.out.exists():
        if not options.overwrite:
            raise PrunescopeError(
                f"{options.out} is there already: name another file, or give --overwrite."
            )
        if any(file.exists() and file.samefile(options.out) for file in options.files):
            raise PrunescopeError(
                f"{options.out} is one of the files that the report is made of: name another."
            )
    page = report_of([_read(file) for file in options.files], options.title)
    with written_whole(options.out) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"Written: {options.out}; any browser opens it, and it needs no network.")


def _read(file: Path) -> dict[str, object]:
    """Return a file's values, after trying whether a report can show them.

    Raises:
        PrunescopeError: if they cannot be read or shown; it names the file.
    """
    from pruning_core.report import findings_of

    try:
        values = parse(file.read_text(encoding="utf-8"))
        findings_of(values)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise PrunescopeError(f"{file} cannot be read: {why}. Check the path.") from error
    except PrunescopeError as error:
        raise PrunescopeError(f"{file} cannot be reported. {error}") from error
    assert isinstance(values, dict)  # as `findings_of` has seen
    return values
