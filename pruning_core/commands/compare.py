"""``compare``: the same job with many estimators, and where they agree."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from pruning_core.commands.bench import allotted, load_model
from pruning_core.commands.options import (
    calibration_options,
    model_options,
    protocol_options,
    read_calibration,
    read_protocol,
    read_sparsity,
    sparsity_option,
)
from pruning_core.commands.output import emit, narrator
from pruning_core.errors import PrunescopeError
from pruning_core.printing import print_comparison
from pruning_core.recipe import STRUCTURED, PatternKind, Recipe, Scoring

HELP = "measure many estimators at one sparsity, and where they agree"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    parser.add_argument(
        "--estimators",
        metavar="NAMES",
        help="comma-separated (default: all that score units and need no training)",
    )
    calibration_options(parser)
    sparsity_option(parser)
    protocol_options(parser)
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="K",
        help="score each on K calibrations, seeds counted up from --seed (default: 1)",
    )
    parser.add_argument("--allow-leak", action="store_true", help="measure on calibration text too")


def run(options: argparse.Namespace) -> None:
    """Score, prune and measure with every estimator, and print where they agree.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
    """
    from pruning_core.commands.comparison import comparison
    from pruning_core.pipeline import compare
    from pruning_core.runs import as_json

    # Everything that can be refused without the model is, before it is loaded.
    names = _names(options.estimators)
    protocol = read_protocol(options)
    sparsity = read_sparsity(options)
    calibration = read_calibration(options)
    if options.seeds < 1:
        raise PrunescopeError(f"--seeds is {options.seeds}: it must be at least 1.")
    seeds = range(calibration.seed, calibration.seed + options.seeds)

    tick = narrator()
    loaded = load_model(options, calibration, tick)
    dense = Recipe(str(loaded.ref), loaded.fingerprint)
    shares, _maps = allotted(loaded, Scoring(names[0]), sparsity)
    asked = dense.with_sparsity(shares)
    recipes = [
        replace(asked, scoring=Scoring(name, (), replace(calibration, seed=seed)))
        for seed in seeds
        for name in names
    ]
    run, found = compare(loaded, recipes, protocol, allow_leak=options.allow_leak, tick=tick)
    maps = [scores for scores in found if scores is not None]
    report = comparison(run, maps, len(names))
    emit(options.json, lambda: as_json(report), lambda: print_comparison(report))


def _names(given: str | None) -> Sequence[str]:
    """Return the names of the estimators that are compared, each once."""
    from pruning_core.importance.registry import Needs, able, estimators

    if given is None:
        return [m.name for m in estimators(PatternKind.STRUCTURED) if m.needs is not Needs.TRAINING]
    return [able(name, STRUCTURED).name for name in dict.fromkeys(given.split(","))]
