"""``export``: write a pruned model in a form that other software opens, and prove it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core.commands.bench import load_model, planned
from pruning_core.commands.options import model_options, read_recipe, read_run, recipe_option
from pruning_core.commands.output import emit, narrator
from pruning_core.errors import PrunescopeError
from pruning_core.printing import print_export, print_preflights
from pruning_core.repair import Repair

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP = "write a pruned model in a form that other software opens, and prove it"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    recipe_option(
        parser, "what to prune: a recipe, or a saved run, whose numbers go into the model card"
    )
    parser.add_argument(
        "--repair",
        dest="repair_as",  # of prune's, the recipe decides
        nargs="?",
        const="ridge",
        metavar="REPAIR",
        help="repair by ridge regression, or as prune's --repair says, whatever the recipe has",
    )
    parser.add_argument(
        "--recover",
        type=Path,
        metavar="DIR",
        help="merge in what recover learned for this recipe and left in a folder",
    )
    parser.add_argument("--format", help="plain, padded, per-layer, gguf or masks")
    parser.add_argument(
        "--out", dest="folder", type=Path, metavar="DIR", help="the folder to write"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export that lies there"
    )
    parser.add_argument(
        "--max-shard-size",
        type=float,
        default=5.0,
        metavar="GB",
        help="gigabytes of weights in one file at the most (default: 5)",
    )
    parser.add_argument(
        "--check-only",
        action="store_true",
        help="say what each format would do with this plan, and write nothing",
    )


def run(options: argparse.Namespace) -> None:
    """Prune a model and write it, or say what writing it would do.

    Raises:
        PrunescopeError: for anything in the input that cannot be done, and if the proof fails.
    """
    from pruning_core.export.card import numbers, trained_numbers, training
    from pruning_core.export.exporting import export, preflights
    from pruning_core.export.folder import demand_place
    from pruning_core.export.format import Subject
    from pruning_core.export.formats import format_named
    from pruning_core.recovery.folder import RecoveryFolder
    from pruning_core.recovery.training import recovered
    from pruning_core.runs import as_json
    from pruning_core.surgery.workbench import Workbench

    # Everything that can be refused without the model is, before it is loaded.
    recipe = read_recipe(options)
    assert recipe is not None
    measured = read_run(options.recipe)
    if options.repair_as is not None:
        repair = Repair.parse(options.repair_as)
        # The numbers of the run are those of its own repair.
        measured = measured if repair == recipe.repair else None
        recipe = replace(recipe, repair=repair)
    if measured is not None:
        numbers(measured)
    record: Mapping[str, Any] | None = None
    if options.recover is not None:
        record = RecoveryFolder(options.recover).record()
        training(record)
        trained_numbers(record)
    if options.format is not None:
        format_named(options.format)
    if not options.check_only:
        if options.format is None or options.folder is None:
            raise PrunescopeError(
                "An export needs --format and --out; --check-only says what each format would do."
            )
        if not options.max_shard_size > 0:
            raise PrunescopeError("--max-shard-size must be more than 0 gigabytes.")
        demand_place(options.folder, overwrite=options.overwrite)

    tick = narrator()
    loaded = load_model(options, recipe.scoring.calibration, tick)
    bench = Workbench(loaded.model)
    plan = planned(loaded, bench, recipe, tick)
    if options.recover is not None:
        plan = recovered(bench, plan, options.recover).plan
    subject = Subject.of(loaded, bench, plan, run=measured, recovery=record)
    if options.check_only:
        found = {"formats": [preflight.as_dict() for preflight in preflights(subject)]}
        emit(options.json, lambda: as_json(found), lambda: print_preflights(found))
        return
    done = export(
        subject,
        options.format,
        options.folder,
        overwrite=options.overwrite,
        largest_shard=int(options.max_shard_size * 1e9),
        tick=tick,
    ).as_dict()
    emit(options.json, lambda: as_json(done), lambda: print_export(done))
