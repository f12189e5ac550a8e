"""``importance``: score importance and save the map."""

from __future__ import annotations

import argparse
from pathlib import Path

from pruning_core.commands.bench import load_model
from pruning_core.commands.options import (
    model_options,
    read_recipe,
    read_scoring,
    scoring_options,
)
from pruning_core.commands.output import emit, narrator

HELP = "score importance and save the map"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    scoring_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


def run(options: argparse.Namespace) -> None:
    """Score a model and write its importance map.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
    """
    from pruning_core.importance.evidence import evidence_for
    from pruning_core.importance.scoring import score
    from pruning_core.importance.store import save_map
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.planning.plan import check_recipe
    from pruning_core.runs import as_json

    given = read_recipe(options)
    scoring = given.scoring if given else read_scoring(options)
    tick = narrator()
    loaded = load_model(options, scoring.calibration, tick)
    anatomy = read_anatomy(loaded.model)
    if given:
        check_recipe(given, loaded.fingerprint, anatomy)
    evidence = evidence_for(loaded.model, loaded.tokenizer, anatomy, scoring.calibration, tick)
    scores = score(scoring, evidence, loaded.fingerprint)
    save_map(scores, options.out)
    report = {
        "model": str(loaded.ref),
        "fingerprint": scores.fingerprint,
        "scoring": scores.scoring.as_dict(),
        "seconds": {"loading": loaded.seconds, "scoring": scores.seconds},
        "sites": len(scores.sites),
        "file": str(options.out),
    }
    emit(
        options.json,
        lambda: as_json(report),
        lambda: print(f"{len(scores.sites)} sites in {scores.seconds:.1f} s: {options.out}"),
    )
