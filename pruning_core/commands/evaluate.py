"""``evaluate``: perplexity and accuracy of a model, or of a recipe beside its dense self."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core.commands.bench import load_model, planned
from pruning_core.commands.options import model_options, read_choice, read_recipe
from pruning_core.commands.output import emit, narrator, note
from pruning_core.errors import PrunescopeError
from pruning_core.printing import print_evaluation
from pruning_core.recipe import Calibration, Recipe

if TYPE_CHECKING:
    from pruning_core.calibration import Text
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.tasks.accuracy import Scorer
    from pruning_core.evaluation.tasks.definitions import Task
    from pruning_core.model.loading import LoadedModel
    from pruning_core.planning.plan import Plan
    from pruning_core.progress import Tick
    from pruning_core.surgery.workbench import Workbench

HELP = "perplexity and accuracy with intervals, of a model or of a recipe beside dense"

FORMAT = "prunescope-evaluation-1"

NONE = "none"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    parser.add_argument(
        "--protocol",
        metavar="NAMES",
        help="how to measure perplexity, comma-separated (see methods; also wikitext2-sliding, "
        "embedded-sliding), or none (default: embedded, or none if tasks are named)",
    )
    parser.add_argument("--tasks", metavar="NAMES", help="comma-separated, or all")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N windows, and N items")
    parser.add_argument(
        "--sample", type=int, metavar="SEED", help="draw the N items instead of the first N"
    )
    parser.add_argument(
        "--scorer", default="fast", help="who scores the tasks: fast (ours), or lm-eval"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with tasks that were broken off before"
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="measure what a recipe, or a saved run's, makes of the model, beside the dense one",
    )
    parser.add_argument(
        "--samples",
        action="store_true",
        help="let the model, and what a recipe makes of it, continue a few built-in prompts",
    )
    parser.add_argument(
        "--speed",
        nargs="?",
        const="1x512",
        metavar="BATCHxLENGTH",
        help="time a recipe beside dense, reading and writing (default: 1x512)",
    )
    parser.add_argument("--allow-leak", action="store_true", help="measure on calibration text too")


def run(options: argparse.Namespace) -> None:
    """Measure, and print each number with its interval; what fails leaves the rest standing.

    Raises:
        PrunescopeError: for anything in the input that cannot be done; where only some of the
            measurements failed, after the others have been printed.
    """
    from pruning_core.evaluation.protocol import any_protocol
    from pruning_core.evaluation.samples import write_samples
    from pruning_core.evaluation.tasks.accuracy import Scorer
    from pruning_core.evaluation.tasks.definitions import TASKS, task
    from pruning_core.runs import as_json, environment, write_text
    from pruning_core.surgery.workbench import Workbench

    # Everything that can be refused without the model is, before it is loaded.
    named = options.protocol or (NONE if options.tasks else "embedded")
    protocols = [
        replace(chosen, limit=options.limit or chosen.limit)
        for chosen in map(any_protocol, _names(named))
    ]
    wanted = options.tasks or NONE
    tasks = list(TASKS.values()) if wanted == "all" else [task(name) for name in _names(wanted)]
    scorer = read_choice("scorer", options.scorer, Scorer)
    if options.limit is not None and options.limit < 1:
        raise PrunescopeError(f"--limit is {options.limit}: it must be 1 or more.")
    if options.sample is not None and options.limit is None:
        raise PrunescopeError("--sample draws as many items as --limit says: give both.")
    if not protocols and not tasks and not options.samples and options.speed is None:
        raise PrunescopeError(
            "There is nothing to measure: name a protocol or tasks, or ask for --samples or "
            "--speed."
        )
    workload = None if options.speed is None else _workload(options.speed)
    recipe = read_recipe(options)
    if workload and recipe is None:
        raise PrunescopeError("--speed times a recipe beside dense: give one with --recipe.")

    tick = narrator()
    loaded = load_model(options, recipe.scoring.calibration if recipe else Calibration(), tick)
    bench = Workbench(loaded.model)
    plan = None if recipe is None else planned(loaded, bench, recipe, tick)
    report: dict[str, Any] = {
        "format": FORMAT,
        "model": str(loaded.ref),
        "fingerprint": loaded.fingerprint,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "recipe": recipe.as_dict() if recipe else None,
        "digest": recipe.digest if recipe else None,
        "sparsity_of_prunable": plan.sparsity if plan else 0.0,
        "protocols": {},
        "tasks": {},
        "environment": environment(),
    }
    identity = {name: report[name] for name in ("fingerprint", "device", "dtype", "environment")}
    if options.samples:  # before hours of measuring, since a model may be too short for them
        report["samples"] = write_samples(bench, loaded.tokenizer, plan, tick=tick)

    if workload and plan:
        from pruning_core.evaluation.costs import measure_costs

        batch, length = workload
        report["cost"] = measure_costs(bench, plan, batch=batch, length=length, tick=tick).as_dict()

    def keep(kind: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        started = time.perf_counter()
        report[kind][name] = _or_error(measure)
        report[kind][name]["seconds"] = time.perf_counter() - started
        if options.json not in (None, "-"):
            write_text(Path(options.json), as_json(report))

    scene = _Scene(loaded, bench, recipe, plan, options.allow_leak, tick)
    for protocol in protocols:
        keep("protocols", protocol.name, partial(scene.measured, protocol))
    for chosen in tasks:
        keep(
            "tasks",
            chosen.name,
            partial(
                scene.asked,
                chosen,
                identity,
                limit=options.limit,
                sample=options.sample,
                scorer=scorer,
                resume=options.resume,
            ),
        )
    emit(options.json, lambda: as_json(report), lambda: print_evaluation(report))
    _demand_all(report)


def _workload(text: str) -> tuple[int, int]:
    """Return batch and length of ``4x512``.

    Raises:
        PrunescopeError: if it is something else.
    """
    batch, cross, length = text.partition("x")
    if not (cross and batch.isdecimal() and length.isdecimal() and int(batch) and int(length)):
        raise PrunescopeError(
            f"--speed is {text!r}: write sequences at once and tokens of each, such as 1x512."
        )
    return int(batch), int(length)


def _names(text: str) -> list[str]:
    """Return the names of a comma-separated list, each once."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [] if names == [NONE] else list(dict.fromkeys(names))


@dataclass(frozen=True)
class _Scene:
    """What every measurement of one call has in common."""

    loaded: LoadedModel
    bench: Workbench
    recipe: Recipe | None
    plan: Plan | None
    allow_leak: bool
    tick: Tick

    def measured(self, protocol: Protocol) -> dict[str, Any]:
        """Measure under one protocol."""
        from pruning_core.calibration import Split, load_text
        from pruning_core.evaluation.measurement import measure_protocol

        tokenizer = self.loaded.tokenizer
        text = load_text(protocol.corpus, Split.MEASUREMENT, self.tick)
        scored = [span.ids[-span.scored :].tolist() for span in protocol.spans(text, tokenizer)]
        read = tokenizer.batch_decode(scored, skip_special_tokens=True)
        leaked = self._leaked(replace(text, documents=tuple(read), joiner=""))
        return measure_protocol(
            self.bench, tokenizer, protocol, text, self.plan, leaked=leaked, tick=self.tick
        ).as_dict()

    def asked(
        self,
        task: Task,
        identity: dict[str, Any],
        *,
        limit: int | None,
        sample: int | None,
        scorer: Scorer,
        resume: bool,
    ) -> dict[str, Any]:
        """Ask the items of one task."""
        from pruning_core.evaluation.measurement import measure_task
        from pruning_core.evaluation.tasks.accuracy import select

        selection = select(task, limit, sample)
        leaked = self._leaked(selection.text)
        return measure_task(
            self.bench,
            self.loaded.tokenizer,
            selection,
            identity,
            self.plan,
            scorer=scorer,
            resume=resume,
            tick=self.tick,
        ).as_dict() | {"leaked": leaked}

    def _leaked(self, measured: Text) -> bool:
        """Return whether the recipe was calibrated on what is measured.

        Raises:
            PrunescopeError: if it was, and that is not allowed.
        """
        from pruning_core.pipeline import guard_recipes

        if self.recipe is None:
            return False
        return guard_recipes([self.recipe], measured, allow=self.allow_leak, tick=self.tick)


def _or_error(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return measure()
    except PrunescopeError as error:
        note(str(error))
        return {"error": str(error)}


def _demand_all(report: dict[str, Any]) -> None:
    pieces = {**report["protocols"], **report["tasks"]}
    failed = {name: piece["error"] for name, piece in pieces.items() if "error" in piece}
    if failed:
        name, why = next(iter(failed.items()))
        raise PrunescopeError(
            f"{len(failed)} of {len(pieces)} measurements failed, the others stand. {name}: {why}"
        )
