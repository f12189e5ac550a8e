"""``survey``: the table of the field, every method at the sparsities that papers report.

Each row is printed when it is measured. With ``--json FILE`` the file is written anew after every
row, so that whatever ends a survey leaves what it had found; the same survey started again takes
the rows that are in FILE from there, and measures the dense model and the rows that are missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core.commands.bench import load_model
from pruning_core.commands.options import (
    calibration_options,
    model_options,
    protocol_options,
    read_calibration,
    read_protocol,
)
from pruning_core.commands.output import emit, narrator, note
from pruning_core.commands.survey_gaps import closed_gaps
from pruning_core.commands.survey_tables import METHODS, NOTES, TABLES, Row
from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.printing import print_survey_notes, print_survey_row, print_survey_start
from pruning_core.recipe import Calibration, Recipe, Scoring

if TYPE_CHECKING:
    from pruning_core.calibration import Text
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.model.anatomy import Anatomy
    from pruning_core.model.loading import LoadedModel
    from pruning_core.runs import Entry, Run

HELP = "measure every method of the field, row by row"

FORMAT = "prunescope-survey/1"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    calibration_options(parser)
    protocol_options(parser)
    parser.add_argument(
        "--table",
        help="methods (default): the field at the sparsities that papers report; repair: the same "
        "before and after a closed-form repair",
    )
    parser.add_argument(
        "--only", metavar="NAMES", help="estimators, comma-separated (default: all)"
    )
    parser.add_argument("--allow-leak", action="store_true", help="measure on calibration text too")


def run(options: argparse.Namespace) -> None:
    """Measure every row that is not in the file yet, and print and write each as it comes.

    Raises:
        PrunescopeError: for anything in the input that cannot be done, or a file that holds
            something else than the beginning of this survey; what was measured by then is kept.
    """
    from pruning_core.calibration import Split, load_text
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.pipeline import compare
    from pruning_core.runs import as_json

    # Everything that can be refused without the model is, before it is loaded.
    rows = _rows(options.table or "methods", options.only)
    protocol = read_protocol(options)
    calibration = read_calibration(options)

    tick = narrator()
    loaded = load_model(options, calibration, tick)
    text = load_text(protocol.corpus, Split.MEASUREMENT, tick)
    file = None if options.json in (None, "-") else Path(options.json)
    survey = _Survey(_start(loaded, calibration, protocol, text), file, quiet=options.json == "-")
    survey.resume()
    anatomy = read_anatomy(loaded.model)
    recipes = {row: _recipe(row, loaded, anatomy, calibration) for row in rows}
    missing = {recipe.digest: row for row, recipe in recipes.items() if not survey.has(recipe)}
    if missing:
        compare(
            loaded,
            [recipes[row] for row in missing.values()],
            protocol,
            allow_leak=options.allow_leak,
            began=survey.begin,
            heard=lambda entry: survey.add(missing[entry.plan.recipe.digest], entry),
            tick=tick,
        )
    else:
        survey.show()
    report = survey.finish()
    emit(options.json, lambda: as_json(report), lambda: print_survey_notes(report))


class _Survey:
    """What has been found so far: printed and written as it comes."""

    def __init__(self, start: dict[str, Any], file: Path | None, *, quiet: bool) -> None:
        """Begin with what is known before anything is measured.

        Args:
            start: what the numbers depend on, see `_start`.
            file: where the report is kept, if anywhere.
            quiet: whether rows are not printed.
        """
        self._start = start
        self._report = {**start, "complete": False, "rows": [], "notes": []}
        self._file = file
        self._quiet = quiet

    def resume(self) -> None:
        """Take over what an earlier start of the same survey has left in the file, if it exists.

        Raises:
            PrunescopeError: if the file holds anything else; it is not touched.
        """
        if self._file is None or not self._file.exists():
            return
        found = _read(self._file)
        differing = [name for name, value in self._start.items() if found.get(name) != value]
        if differing:
            raise PrunescopeError(
                f"{self._file} holds another survey or something else: it differs in "
                f"{', '.join(differing)}. Name another file, or remove this one."
            )
        self._report = found
        note(f"Rows that {self._file} holds and that are not measured again: {len(found['rows'])}.")

    def has(self, recipe: Recipe) -> bool:
        """Return whether a recipe has been measured."""
        return any(row["digest"] == recipe.digest for row in self._report["rows"])

    def begin(self, run: Run) -> None:
        """Take the dense model's row."""
        from pruning_core.runs import quality_as_dict

        self._report |= {
            "complete": False,
            # Rows of an earlier start may have been calibrated on what is measured, too.
            "leaked": run.leaked or self._report.get("leaked", False),
            "dense": {"cost": vars(run.dense_cost), "quality": quality_as_dict(run.dense_quality)},
            "seconds": run.seconds,
        }
        self._write()
        self.show()

    def add(self, row: Row, entry: Entry) -> None:
        """Take the next row."""
        seconds = entry.seconds
        choosing = seconds.get("scoring", 0.0) + seconds["planning"]
        self._report["rows"].append(
            {
                "label": row.label,
                "asked": row.sparsity,
                **entry.as_dict(),
                "seconds": seconds | {"choosing": choosing},
            }
        )
        self._write()
        if not self._quiet:
            print_survey_row(self._report, self._report["rows"][-1])

    def show(self) -> None:
        """Print what there is so far."""
        if self._quiet:
            return
        print_survey_start(self._report)
        for row in self._report["rows"]:
            print_survey_row(self._report, row)

    def finish(self) -> dict[str, Any]:
        """Return the report, which has all rows that were asked for."""
        surveyed = {row["estimator"] for row in self._report["rows"]}
        self._report["complete"] = True
        self._report["notes"] = [*_notes(surveyed), *closed_gaps(self._report)]
        return self._report

    def _write(self) -> None:
        from pruning_core.runs import as_json, write_text

        if self._file:
            write_text(self._file, as_json(self._report))


def _rows(table: str, only: str | None) -> Sequence[Row]:
    """Return the rows of the named estimators, in the order of the table."""
    if table not in TABLES:
        raise unknown_name("table of the survey", table, TABLES)
    known = {row.estimator for row in TABLES[table]}
    wanted = known if only is None else only.split(",")
    for name in wanted:
        if name not in known:
            raise unknown_name("estimator of the survey", name, known)
    return [row for row in TABLES[table] if row.estimator in wanted]


def _recipe(row: Row, loaded: LoadedModel, anatomy: Anatomy, calibration: Calibration) -> Recipe:
    """Return the recipe of a row: the same sparsity wherever its method can prune."""
    from pruning_core.importance.registry import able
    from pruning_core.planning.allocation import uniform
    from pruning_core.planning.thinning import places_for

    method = able(row.estimator, row.pattern)
    places = places_for(anatomy, method, row.pattern)
    scoring = Scoring(method.name, method.canonical(dict(row.settings)), calibration)
    return Recipe(
        str(loaded.ref), loaded.fingerprint, scoring, pattern=row.pattern, repair=row.repair
    ).with_sparsity(uniform(places, row.sparsity))


def _start(
    loaded: LoadedModel, calibration: Calibration, protocol: Protocol, text: Text
) -> dict[str, Any]:
    """Return what a survey's numbers depend on: two that differ here make two tables."""
    from pruning_core.runs import environment

    return {
        "format": FORMAT,
        "model": str(loaded.ref),
        "fingerprint": loaded.fingerprint,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "calibration": asdict(calibration),
        "protocol": vars(protocol) | {"source": text.source, "sha256": text.sha256},
        "environment": environment(),
    }


def _read(file: Path) -> dict[str, Any]:
    """Return what a file holds, nothing if that is no JSON object."""
    try:
        found = json.loads(file.read_text())
    except ValueError:  # bytes that are no text are one, too
        return {}
    except OSError as error:
        raise PrunescopeError(
            f"{file} cannot be read: {error.strerror}. Name another file."
        ) from error
    return found if isinstance(found, dict) else {}


def _notes(surveyed: set[str]) -> list[str]:
    """Return what a reader must know of a table of these estimators."""
    from pruning_core.importance.registry import estimators

    absent = [e.name for e in estimators() if e.name not in {row.estimator for row in METHODS}]
    return [
        "prunable, layers, all: the fraction that left of what the method can prune, of the "
        "matrices in the layers, of all parameters. Single weights become zero, units leave.",
        "choosing: scoring and planning. What rows share, a text's gradients or a score that "
        "serves two sparsities, is in the first of them.",
        "peak: in use at most while the row was chosen, with the model and what earlier rows "
        "gathered; of the GPUs where the model is on one, else main memory.",
        *(sentence for name, sentence in NOTES.items() if name in surveyed),
        f"Not in the survey: {', '.join(absent)} (see methods; prune measures them).",
    ]
