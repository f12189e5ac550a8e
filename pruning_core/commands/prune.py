"""``prune``: prune a model and measure it beside the dense one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pruning_core.commands.bench import allotted, load_model
from pruning_core.commands.options import (
    model_options,
    protocol_options,
    read_choice,
    read_pattern,
    read_protocol,
    read_recipe,
    read_scoring,
    read_sparsity,
    scoring_options,
    sparsity_option,
)
from pruning_core.commands.output import emit, narrator
from pruning_core.printing import print_run
from pruning_core.recipe import Recipe, Scoring
from pruning_core.repair import Repair

if TYPE_CHECKING:
    from pruning_core.importance.map import ImportanceMap

HELP = "prune a model and measure it beside the dense one"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    scoring_options(parser)
    sparsity_option(parser)
    parser.add_argument(
        "--pattern",
        help="what leaves: structured (whole units, the default), unstructured (single weights), "
        "or n:m such as 2:4",
    )
    parser.add_argument(
        "--allocation",
        help="how the sparsity is shared out: uniform (default), ranking (all units in one), owl "
        "(layers with outliers keep more), layers (whole layers leave)",
    )
    parser.add_argument(
        "--repair",
        help="none (default); bias: what left contributes its mean; ridge: what reads the units, "
        "or every thinned matrix, is solved again on what stays. Settings as in "
        "ridge:damping=0.01,prefix=pruned,windows=64,length=256",
    )
    parser.add_argument(
        "--protect-ends", type=int, metavar="N", help="keep N layers dense at either end"
    )
    protocol_options(parser)
    parser.add_argument(
        "--beside",
        metavar="NAMES",
        help="other estimators at the same sparsity, comma-separated, or 'none' "
        "(default for hybrids: fine,coarse,magnitude,random)",
    )
    parser.add_argument("--allow-leak", action="store_true", help="measure on calibration text too")
    parser.add_argument("--save-recipe", type=Path, metavar="FILE")


def run(options: argparse.Namespace) -> None:
    """Score, prune and measure, and print a row for every recipe.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
    """
    from pruning_core.importance.registry import Grain, able
    from pruning_core.pipeline import prune
    from pruning_core.planning.allocation import Allocation
    from pruning_core.runs import as_json, write_text

    # Everything that can be refused without the model is, before it is loaded.
    protocol = read_protocol(options)
    given = read_recipe(options)
    pattern = given.pattern if given else read_pattern(options)
    scoring = given.scoring if given else read_scoring(options, pattern)
    sparsity = read_sparsity(options, pattern)
    allocation = read_choice("allocation", options.allocation or Allocation.UNIFORM, Allocation)
    repair = Repair.parse(options.repair or "none")
    method = able(scoring.estimator, pattern)
    names = options.beside or (
        "fine,coarse,magnitude,random" if method.grain is Grain.HYBRID else "none"
    )
    beside = [
        Scoring(able(name, pattern).name, (), scoring.calibration)
        for name in (() if names == "none" else names.split(","))
    ]

    tick = narrator()
    loaded = load_model(options, scoring.calibration, tick)
    known: dict[Scoring, ImportanceMap] = {}
    recipe = given
    if recipe is None:
        shares, known = allotted(
            loaded,
            scoring,
            sparsity,
            pattern,
            allocation=allocation,
            ends=options.protect_ends or 0,
            tick=tick,
        )
        recipe = Recipe(
            str(loaded.ref), loaded.fingerprint, scoring, pattern=pattern, repair=repair
        ).with_sparsity(shares)
    if options.save_recipe:
        write_text(options.save_recipe, recipe.to_json())
    run = prune(
        loaded,
        recipe,
        protocol,
        beside=beside,
        known=known,
        allow_leak=options.allow_leak,
        tick=tick,
    )
    emit(options.json, lambda: as_json(run.as_dict()), lambda: print_run(run.as_dict()))
