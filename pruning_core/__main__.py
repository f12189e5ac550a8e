"""The command line: the same core as the app, without a browser.

    python -m pruning_core prune demo --estimator hybrid --sparsity 0.2 --corpus c4 \\
        --protocol wikitext2 --json run.json
    python -m pruning_core importance demo --estimator fine --out fine.safetensors
    python -m pruning_core inspect demo
    python -m pruning_core methods

Exit codes: 0 done, 2 bad input or memory that ran out (one sentence on stderr says what, why and
what to do), 130 stopped, 141 nobody reads what it prints.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pruning_core.errors import MEMORY_CURE, PrunescopeError, memory_ran_out
from pruning_core.printing import print_anatomy, print_methods, print_run
from pruning_core.progress import Tick
from pruning_core.recipe import Calibration, Recipe, Scalar, Scoring, SiteKey, check_sparsity

DECIDED = (
    *("estimator", "set", "corpus", "windows", "length", "seed"),  # how importance is scored
    *("sparsity", "protect_ends"),
)
"""The options that a recipe decides; None where they were not given."""

MISSED = 0.005
"""A reached sparsity this far from the asked one is told."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    _quiet_libraries()
    try:
        _demand_places(options)
        options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough; Python would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except PrunescopeError as error:
        print(f"prunescope: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prunescope: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if not memory_ran_out(error):
            raise
        print(f"prunescope: The memory ran out. {MEMORY_CURE}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pruning_core", description="Prune language models and measure the result."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    prune = commands.add_parser("prune", help="prune a model and measure it beside the dense one")
    _model_options(prune)
    _scoring_options(prune)
    prune.add_argument("--sparsity", help="fraction of prunable parameters to go (default: 0.2)")
    prune.add_argument(
        "--protect-ends", type=int, metavar="N", help="keep N layers dense at either end"
    )
    prune.add_argument("--protocol", default="embedded", help="how to measure (see methods)")
    prune.add_argument("--limit", type=int, help="measure at most so many windows")
    prune.add_argument(
        "--beside",
        metavar="NAMES",
        help="other estimators at the same sparsity, comma-separated, or 'none' "
        "(default for hybrids: fine,coarse,magnitude,random)",
    )
    prune.add_argument("--allow-leak", action="store_true", help="measure on calibration text too")
    prune.add_argument("--save-recipe", type=Path, metavar="FILE")
    prune.set_defaults(command=_prune)

    importance = commands.add_parser("importance", help="score importance and save the map")
    _model_options(importance)
    _scoring_options(importance)
    importance.add_argument("--out", type=Path, required=True, metavar="FILE")
    importance.set_defaults(command=_importance)

    inspect = commands.add_parser("inspect", help="what a model is made of and what it needs")
    _model_options(inspect)
    inspect.set_defaults(command=_inspect)

    methods = commands.add_parser("methods", help="estimators, corpora and protocols")
    methods.add_argument("--json", nargs="?", const="-", metavar="FILE")
    methods.set_defaults(command=_methods)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="demo, a hub id (org/name@revision), a folder, a GGUF file")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code the checkpoint brings"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print or write JSON")


def _scoring_options(parser: argparse.ArgumentParser) -> None:
    base = Calibration()
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="take everything from a recipe")
    parser.add_argument("--estimator", help=f"see methods (default: {Scoring().estimator})")
    parser.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="an estimator's parameter"
    )
    parser.add_argument("--corpus", help=f"calibration text, or file:PATH (default: {base.corpus})")
    for name, about in (
        ("windows", "calibration windows"),
        ("length", "tokens in a window"),
        ("seed", "chooses the windows"),
    ):
        default = getattr(base, name)
        parser.add_argument(f"--{name}", type=int, help=f"{about} (default: {default})")


def _prune(options: argparse.Namespace) -> None:
    from pruning_core.evaluation.protocol import protocol
    from pruning_core.importance.registry import Grain, estimator
    from pruning_core.pipeline import prune
    from pruning_core.runs import as_json, write_text

    # Everything that can be refused without the model is, before it is loaded.
    measured = protocol(options.protocol)
    if options.limit is not None:
        measured = replace(measured, limit=options.limit)
    given = _read_recipe(options)
    scoring = given.scoring if given else _scoring(options)
    sparsity = _number("0.2" if options.sparsity is None else options.sparsity, "--sparsity")
    check_sparsity(sparsity, "the whole model")
    method = estimator(scoring.estimator)
    names = options.beside or (
        "fine,coarse,magnitude,random" if method.grain is Grain.HYBRID else "none"
    )
    beside = [
        Scoring(estimator(name).name, (), scoring.calibration)
        for name in (() if names == "none" else names.split(","))
    ]

    tick = _narrator()
    loaded = _load(options, scoring, tick)
    recipe = given or Recipe(str(loaded.ref), loaded.fingerprint, scoring).with_sparsity(
        _allotted(loaded.model, sparsity, options.protect_ends or 0)
    )
    if options.save_recipe:
        write_text(options.save_recipe, recipe.to_json())
    run = prune(loaded, recipe, measured, beside=beside, allow_leak=options.allow_leak, tick=tick)
    _emit(options.json, lambda: as_json(run.as_dict()), lambda: print_run(run.as_dict()))


def _importance(options: argparse.Namespace) -> None:
    from pruning_core.importance.evidence import evidence_for
    from pruning_core.importance.scoring import score
    from pruning_core.importance.store import save_map
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.planning.plan import check_recipe
    from pruning_core.runs import as_json

    given = _read_recipe(options)
    scoring = given.scoring if given else _scoring(options)
    tick = _narrator()
    loaded = _load(options, scoring, tick)
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
    _emit(
        options.json,
        lambda: as_json(report),
        lambda: print(f"{len(scores.sites)} sites in {scores.seconds:.1f} s: {options.out}"),
    )


def _inspect(options: argparse.Namespace) -> None:
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.model.configuration import read_config, skeleton
    from pruning_core.model.device import choose_device, choose_dtype
    from pruning_core.model.memory import of_skeleton
    from pruning_core.model.reference import ModelRef, Source
    from pruning_core.runs import as_json

    ref = ModelRef.parse(options.model)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    trust = options.trust_remote_code
    config, _ = read_config(ref, trust_remote_code=trust)
    # The skeleton has every shape and no weight: nothing large is read.
    shapes = skeleton(config, dtype, trust_remote_code=trust)
    anatomy = read_anatomy(shapes)
    check = of_skeleton(shapes, device, dtype, unpacks=ref.source is Source.GGUF)
    report: dict[str, Any] = {
        "model": str(ref),
        "family": anatomy.family,
        "layers": anatomy.layers,
        "hidden_size": anatomy.hidden_size,
        "head_dim": anatomy.head_dim,
        "parameters": anatomy.parameters,
        "prunable_parameters": anatomy.prunable_parameters,
        "memory": check.sentence(),
        "sites": [
            {
                "site": str(site.key),
                "units": site.units,
                "heads_per_unit": site.heads_per_unit,
                "parameters": site.parameters,
                "sparsities": [round(width.sparsity, 4) for width in site.ladder]
                if site.heads_per_unit
                else f"one of {site.units} channels at a time",
            }
            for site in anatomy.sites
        ],
        "refused": {str(refusal.key): refusal.reason for refusal in anatomy.refusals},
    }
    _emit(options.json, lambda: as_json(report), lambda: print_anatomy(report))


def _methods(options: argparse.Namespace) -> None:
    from pruning_core.calibration import CORPORA
    from pruning_core.evaluation.protocol import PROTOCOLS
    from pruning_core.importance.registry import estimators
    from pruning_core.recipe import PatternKind
    from pruning_core.runs import as_json

    report = {
        "estimators": {
            e.name: {
                "title": e.title,
                "grain": e.grain,
                "needs": e.needs,
                "patterns": [kind for kind in PatternKind if e.follows(kind)],
                "summary": e.summary,
                "formula": e.formula,
                "source": e.source,
                "parameters": {
                    p.name: {"default": p.default, "help": p.help} for p in e.parameters
                },
            }
            for e in estimators()
        },
        "corpora": {name: corpus.description for name, corpus in CORPORA.items()},
        "protocols": {name: protocol.title for name, protocol in PROTOCOLS.items()},
    }
    _emit(options.json, lambda: as_json(report), lambda: print_methods(report))


def _demand_places(options: argparse.Namespace) -> None:
    """Refuse places that can't be written, before hours of work are done for them."""
    from pruning_core.files import demand_writable

    for name in ("json", "save_recipe", "out"):
        place = getattr(options, name, None)
        if place not in (None, "-"):
            demand_writable(Path(place))


def _load(options: argparse.Namespace, scoring: Scoring, tick: Tick) -> Any:
    """Load the model to be scored and say whether its memory will do for that."""
    from pruning_core.model.loading import load

    loaded = load(
        options.model,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        window=scoring.calibration.length,
        tick=tick,
    )
    _note(loaded.preflight.sentence())
    return loaded


def _allotted(model: Any, sparsity: float, ends: int) -> Mapping[SiteKey, float]:
    """Return a sparsity for every site; where the model can't come near the asked one, say so."""
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.planning.allocation import overall, protect_ends

    anatomy = read_anatomy(model)
    shares = protect_ends(anatomy, sparsity, ends)
    reached = overall(anatomy, shares)
    if abs(reached - sparsity) > MISSED:
        _note(
            f"The asked sparsity of {sparsity:.2%} can't be reached with the sites that may be "
            f"pruned: {reached:.2%} is, and is measured."
        )
    return shares


def _read_recipe(options: argparse.Namespace) -> Recipe | None:
    """Return the recipe that was given, alone: it says all that the scoring options could."""
    if options.recipe is None:
        return None
    also = [name for name in DECIDED if getattr(options, name, None) is not None]
    if also:
        named = ", ".join("--" + name.replace("_", "-") for name in also)
        raise PrunescopeError(
            f"--recipe decides what {named} would: leave out the one or the other."
        )
    try:
        text = options.recipe.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PrunescopeError(
            f"The recipe {options.recipe} cannot be read: {error}. Check the path."
        ) from error
    return Recipe.from_json(text)


def _scoring(options: argparse.Namespace) -> Scoring:
    from pruning_core.importance.registry import estimator

    method = estimator(Scoring().estimator if options.estimator is None else options.estimator)
    defaults = {parameter.name: parameter.default for parameter in method.parameters}
    given: dict[str, object] = {}
    for text in options.set or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise PrunescopeError(f"--set {text!r} lacks its value: write NAME=VALUE.")
        given[name] = _like(defaults.get(name, value), value, name)
    chosen = {field.name: getattr(options, field.name) for field in fields(Calibration)}
    calibration = Calibration(**{name: v for name, v in chosen.items() if v is not None})
    return Scoring(method.name, method.canonical(given), calibration)


def _like(default: Scalar, text: str, name: str) -> Scalar:
    """Read a text as the type of a default; an unknown name is refused later, as a text."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return text.lower() in ("1", "true", "yes", "on")
    number = _number(text, name)
    return int(number) if isinstance(default, int) and number.is_integer() else number


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise PrunescopeError(f"{what} is {text!r}: it must be a number.") from error


def _narrator() -> Tick:
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


def _note(sentence: str) -> None:
    """Tell something on stderr, over what is left of the last stage."""
    print(sentence.ljust(60), file=sys.stderr)


def _emit(target: str | None, as_json: Callable[[], str], as_text: Callable[[], None]) -> None:
    from pruning_core.runs import write_text

    if target == "-":
        print(as_json())
        return
    as_text()
    if target:
        write_text(Path(target), as_json())


def _quiet_libraries() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
