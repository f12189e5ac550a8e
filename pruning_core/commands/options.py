"""Options that several commands share, and what is read from them."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.history import FORMAT, parse, recipe_of
from pruning_core.recipe import (
    STRUCTURED,
    Calibration,
    Pattern,
    PatternKind,
    Recipe,
    Scalar,
    Scoring,
    check_sparsity,
)

if TYPE_CHECKING:
    from pruning_core.evaluation.protocol import Protocol

Choice = TypeVar("Choice", bound=StrEnum)

DECIDED = (
    *("estimator", "set", "corpus", "windows", "length", "seed"),  # how importance is scored
    *("sparsity", "pattern", "allocation", "protect_ends", "repair"),
)
"""The options that a recipe decides; None where they were not given."""


USUAL = {
    PatternKind.STRUCTURED: Scoring().estimator,
    PatternKind.UNSTRUCTURED: "wanda",
    PatternKind.N_OF_M: "wanda",
}
"""The estimator where none is named."""


def model_options(parser: argparse.ArgumentParser) -> None:
    """Declare which model is meant, where it goes, and a place for JSON."""
    parser.add_argument("model", help="demo, a hub id (org/name@revision), a folder, a GGUF file")
    machine_options(parser)


def machine_options(parser: argparse.ArgumentParser) -> None:
    """Declare where the model goes, and a place for JSON."""
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16, float32")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code the checkpoint brings"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="print or write JSON")


def scoring_options(parser: argparse.ArgumentParser) -> None:
    """Declare how importance is scored: by a recipe, or by an estimator and its calibration."""
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="take everything from a recipe, or from a saved run",
    )
    parser.add_argument("--estimator", help="see methods (default: hybrid, or wanda for weights)")
    parser.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="an estimator's parameter"
    )
    calibration_options(parser)


def calibration_options(parser: argparse.ArgumentParser) -> None:
    """Declare the text that importance is scored on."""
    base = Calibration()
    parser.add_argument("--corpus", help=f"calibration text, or file:PATH (default: {base.corpus})")
    for name, about in (
        ("windows", "calibration windows"),
        ("length", "tokens in a window"),
        ("seed", "chooses the windows"),
    ):
        default = getattr(base, name)
        parser.add_argument(f"--{name}", type=int, help=f"{about} (default: {default})")


def sparsity_option(parser: argparse.ArgumentParser) -> None:
    """Declare how much leaves."""
    parser.add_argument("--sparsity", help="fraction of prunable parameters to go (default: 0.2)")


def protocol_options(parser: argparse.ArgumentParser) -> None:
    """Declare how to measure."""
    parser.add_argument("--protocol", default="embedded", help="how to measure (see methods)")
    parser.add_argument("--limit", type=int, help="measure at most so many windows")


def read_recipe(options: argparse.Namespace) -> Recipe | None:
    """Return the recipe that was given, alone: it says all that the scoring options could.

    The file is a recipe, or a run, which brings its recipe.

    Raises:
        PrunescopeError: if it cannot be read, or options were given that it decides.
    """
    if options.recipe is None:
        return None
    also = [name for name in DECIDED if getattr(options, name, None) is not None]
    if also:
        named = ", ".join("--" + name.replace("_", "-") for name in also)
        raise PrunescopeError(
            f"--recipe decides what {named} would: leave out the one or the other."
        )
    try:
        text = options.recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PrunescopeError(
            f"The recipe {options.recipe} cannot be read: {error}. Check the path."
        ) from error
    try:
        return recipe_of(parse(text))
    except PrunescopeError as error:
        raise PrunescopeError(f"{options.recipe} cannot be read as a recipe. {error}") from error


def recipe_option(parser: argparse.ArgumentParser, about: str) -> None:
    """Declare the recipe of a command that cannot do without one.

    Args:
        about: what it is, for the help.
    """
    parser.add_argument("--recipe", type=Path, required=True, metavar="FILE", help=about)


def read_run(path: Path) -> dict[str, Any] | None:
    """Return the run that a file holds, as plain values; None for a recipe, see `read_recipe`."""
    values = parse(path.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) and values.get("format") == FORMAT else None


def read_choice(name: str, given: str, choices: type[Choice]) -> Choice:
    """Return the member of an enumeration that an option names.

    Raises:
        PrunescopeError: if it names none.
    """
    if given not in set(choices):
        raise unknown_name(name, given, choices)
    return choices(given)


def read_pattern(options: argparse.Namespace) -> Pattern:
    """Return the pattern that the options name.

    Raises:
        PrunescopeError: if it is none.
    """
    return STRUCTURED if options.pattern is None else Pattern.parse(options.pattern)


def read_scoring(options: argparse.Namespace, pattern: Pattern = STRUCTURED) -> Scoring:
    """Return the scoring that the options describe, by default the pattern's usual one.

    Raises:
        PrunescopeError: for an unknown estimator, or a parameter or calibration out of bounds.
    """
    from pruning_core.importance.registry import estimator

    method = estimator(options.estimator or USUAL[pattern.kind])
    defaults = {parameter.name: parameter.default for parameter in method.parameters}
    given: dict[str, object] = {}
    for text in options.set or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise PrunescopeError(f"--set {text!r} lacks its value: write NAME=VALUE.")
        given[name] = _like(defaults.get(name, value), value, name)
    return Scoring(method.name, method.canonical(given), read_calibration(options))


def read_calibration(options: argparse.Namespace) -> Calibration:
    """Return the calibration that the options describe, defaults where they are silent.

    Raises:
        PrunescopeError: if a number is out of bounds.
    """
    chosen = {field.name: getattr(options, field.name) for field in fields(Calibration)}
    return Calibration(**{name: v for name, v in chosen.items() if v is not None})


def read_sparsity(options: argparse.Namespace, pattern: Pattern = STRUCTURED) -> float:
    """Return the sparsity of the whole model; the n:m patterns bring their own.

    Raises:
        PrunescopeError: if it is no number from 0 to 1.
    """
    usual = pattern.n / pattern.m if pattern.kind is PatternKind.N_OF_M else 0.2
    sparsity = usual if options.sparsity is None else _number(options.sparsity, "--sparsity")
    return check_sparsity(sparsity, "the whole model")


def read_protocol(options: argparse.Namespace) -> Protocol:
    """Return the protocol that the options describe.

    Raises:
        PrunescopeError: if there is none of that name.
    """
    from pruning_core.evaluation.protocol import protocol

    chosen = protocol(options.protocol)
    return chosen if options.limit is None else replace(chosen, limit=options.limit)


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
