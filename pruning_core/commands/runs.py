"""``runs``: the saved runs, and which of them are the best for their size."""

from __future__ import annotations

import argparse
from datetime import UTC
from typing import Any

from pruning_core.commands.output import emit, note
from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.history import History, SavedRun, frontier, history_root
from pruning_core.printing import print_saved

HELP = "list the saved runs"

EVERY = "all"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "model",
        nargs="?",
        default=EVERY,
        metavar="FINGERPRINT",
        help="the model's, as the list has it (default: all models)",
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print or write JSON")


def run(options: argparse.Namespace) -> None:
    """Print the runs of one model or of all, and on stderr which files are none.

    Raises:
        PrunescopeError: if there are none of that model, or they cannot be read.
    """
    from pruning_core.runs import as_json

    history = History(history_root())
    known = history.fingerprints()
    if options.model not in (EVERY, *known):
        if not known:
            raise PrunescopeError(f"There are no saved runs in {history.folder} yet.")
        raise unknown_name("model", options.model, [EVERY, *known])
    report: dict[str, Any] = {"folder": str(history.folder), "models": []}
    for fingerprint in known if options.model == EVERY else [options.model]:
        runs = history.runs(fingerprint)
        best = frontier(runs)
        broken = history.unreadable(fingerprint)
        for file in broken:
            note(f"{file.path} is left out: {file.why}")
        report["models"].append(
            {
                "fingerprint": fingerprint,
                "model": runs[-1].recipe.model if runs else None,
                "runs": [_row(run, run in best) for run in runs],
                "unreadable": [{"file": str(file.path), "why": file.why} for file in broken],
            }
        )
    emit(options.json, lambda: as_json(report), lambda: print_saved(report))


def _row(run: SavedRun, is_best: bool) -> dict[str, Any]:
    """Return what the list says of a run; perplexity is None where it overflowed."""
    conditions = run.conditions
    return {
        "id": run.id,
        "name": run.name,
        "created": run.created.astimezone(UTC).isoformat(timespec="seconds"),
        "digest": run.digest,
        "estimator": run.recipe.scoring.estimator,
        "pattern": str(run.recipe.pattern),
        "sparsity_of_prunable": run.sparsity,
        "parameters": run.parameters,
        "perplexity": run.perplexity if run.perplexity < float("inf") else None,
        "dense_perplexity": run.dense_perplexity if run.dense_perplexity < float("inf") else None,
        "protocol": conditions.protocol,
        "limit": conditions.limit,
        "device": conditions.device,
        "dtype": conditions.dtype,
        "leaked": run.leaked,
        "frontier": is_best,
    }
