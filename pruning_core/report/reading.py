"""Which file is read how: by its format, and no other format is read at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.history import FORMAT
from pruning_core.report.evaluations import evaluation_findings
from pruning_core.report.findings import Findings
from pruning_core.report.runs import run_findings, survey_findings
from pruning_core.report.values import Table, readable

RUN, EVALUATION, SURVEY = FORMAT, "prunescope-evaluation-1", "prunescope-survey/1"
"""The formats of what ``prune``, ``evaluate`` and ``survey`` write with ``--json``."""

READABLE: Mapping[str, Callable[[Table], Findings]] = {
    RUN: run_findings,
    EVALUATION: evaluation_findings,
    SURVEY: survey_findings,
}
"""What a file can be, by its format."""

_LONGEST_FORMAT = 60


def findings_of(values: object) -> Findings:
    """Return what a file holds.

    Args:
        values: of the file, as `history.saved.parse` or `json` read them.

    Raises:
        PrunescopeError: if its format is unknown, or a value is missing or cannot be.
    """
    if not isinstance(values, dict):
        raise PrunescopeError(
            "It holds no table of values: name what prune, evaluate or survey wrote with --json."
        )
    found = values.get("format")
    if not isinstance(found, str) or found not in READABLE:
        raise unknown_name("format", readable(str(found))[:_LONGEST_FORMAT], READABLE)
    return READABLE[found](Table(values))
