"""``check``: whether a recipe still keeps its promise, as an exit code; made for CI."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core.commands.bench import load_model
from pruning_core.commands.options import (
    machine_options,
    protocol_options,
    read_protocol,
    read_recipe,
    read_run,
)
from pruning_core.commands.output import emit, narrator, note
from pruning_core.errors import PrunescopeError

if TYPE_CHECKING:
    from pruning_core.evaluation.intervals import Interval
    from pruning_core.evaluation.quality import Quality
    from pruning_core.runs import Run

HELP = "exit with 1 when a recipe costs more perplexity than it may"

FORMAT = "prunescope-check/1"

FAILED = 1
"""The exit code of a recipe that does not hold."""


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        run: the recipe, measured beside the dense model.
        limit: by how much the perplexity may rise, as a fraction of the dense one.
        delta: by how much it rises, a fraction too; infinite where it overflows.
        interval: of the delta, from the same windows of both; None where it overflows.
    """

    run: Run
    limit: float
    delta: float
    interval: Interval | None

    @property
    def holds(self) -> bool:
        """Whether the perplexity rises by the limit at the most."""
        return self.delta <= self.limit

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        allowed = f"the limit is {self.limit:+.2%}"
        if self.interval is None:
            return f"The recipe does not hold: the pruned perplexity overflows; {allowed}."
        if self.holds:
            said = f"The recipe holds: perplexity changes by {self.delta:+.2%}, and {allowed}."
        else:
            over = 100 * (self.delta - self.limit)
            said = (
                f"The recipe does not hold: perplexity changes by {self.delta:+.2%}, and {allowed}:"
                f" {over:.2f} percentage points too much."
            )
        if self.interval.low <= self.limit <= self.interval.high:
            said += " The limit lies within the interval: other text might decide otherwise."
        return said

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; what overflowed, or has no interval, is None."""
        from pruning_core.evaluation.measurement import as_values

        run = self.run.as_dict()
        delta = dict.fromkeys(("value", "low", "high"))
        return {
            "format": FORMAT,
            "holds": self.holds,
            "limit": self.limit,
            "delta": delta if self.interval is None else as_values(self.interval),
            "sentence": self.sentence,
            "run": run,
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a recipe, or a saved run")
    parser.add_argument(
        "--max-ppl-delta",
        required=True,
        metavar="SHARE",
        help="by how much the perplexity may rise over the dense one: 5%% or 0.05",
    )
    parser.add_argument("--model", help="the model, if it is no longer where the recipe says")
    machine_options(parser)
    protocol_options(parser)
    parser.set_defaults(protocol=None)  # a saved run brings its own
    parser.add_argument("--allow-leak", action="store_true", help="measure on calibration text too")


def run(options: argparse.Namespace) -> int:
    """Measure a recipe beside the dense model and say whether it holds.

    Returns:
        The exit code: 0 if it does, 1 if it does not.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
    """
    from pruning_core.evaluation.perplexity import check_length
    from pruning_core.pipeline import prune
    from pruning_core.runs import as_json

    # Everything that can be refused without the model is, before it is loaded.
    limit = read_limit(options.max_ppl_delta)
    recipe = read_recipe(options)
    assert recipe is not None
    if options.protocol is None:
        _take_protocol(options)
    protocol = read_protocol(options)
    options.model = options.model or recipe.model

    tick = narrator()
    loaded = load_model(options, recipe.scoring.calibration, tick)
    check_length(loaded.model, protocol.window)
    measured = prune(loaded, recipe, protocol, allow_leak=options.allow_leak, tick=tick)
    found = judged(measured, limit)
    report = found.as_dict()
    emit(options.json, lambda: as_json(report), lambda: _print(report))
    if options.json == "-":
        note(found.sentence)
    return 0 if found.holds else FAILED


def read_limit(text: str) -> float:
    """Return a limit written as a percentage or as a fraction.

    Raises:
        PrunescopeError: if it is neither, or below 0; or above 1 without a percent sign, which
            is more likely a percentage than a perplexity that may double several times.
    """
    digits = text.strip().removesuffix("%")
    percent = digits != text.strip()
    try:
        limit = float(digits) / (100 if percent else 1)
    except ValueError:
        limit = math.nan
    if not (0 <= limit < math.inf and (percent or limit <= 1)):
        raise PrunescopeError(
            f"--max-ppl-delta is {text!r}: write a percentage such as 5%, or a fraction from 0 to "
            "1 such as 0.05."
        )
    return limit


def judged(run: Run, limit: float) -> Outcome:
    """Return what a run says of a limit on the rise of perplexity.

    Raises:
        PrunescopeError: if the dense model's perplexity is no number to compare with, or the pruned
            model returns NaN.
    """
    from pruning_core.evaluation.intervals import paired
    from pruning_core.evaluation.perplexity import check_numbers

    dense, pruned = run.dense_quality, run.entries[0].quality
    check_numbers(dense, "dense")
    check_numbers(pruned, "pruned")
    if not math.isfinite(dense.perplexity):
        raise PrunescopeError(
            "The dense model's perplexity overflows, so there is nothing to compare with. Check "
            "its weights, or load it in another dtype."
        )
    if not math.isfinite(pruned.perplexity):
        return Outcome(run, limit, math.inf, None)
    loss = paired(_losses(dense), _losses(pruned), [window.scored for window in dense.windows])
    delta = loss.mapped(_relative)
    return Outcome(run, limit, delta.value, delta)


def _losses(quality: Quality) -> list[float]:
    return [window.nll for window in quality.windows]


def _relative(loss: float) -> float:
    """Return by what fraction perplexity rises when the loss rises by so many nats per token."""
    return math.expm1(loss) if loss < 700 else math.inf


def _take_protocol(options: argparse.Namespace) -> None:
    """Measure as a saved run was measured; a recipe alone does not say, and gets the usual way.

    Raises:
        PrunescopeError: if the run does not say how it was measured.
    """
    values = read_run(options.recipe)
    if values is None:
        options.protocol = "embedded"
        return
    protocol = values.get("protocol")
    name = protocol.get("name") if isinstance(protocol, dict) else None
    limit = protocol.get("limit") if isinstance(protocol, dict) else None
    if not isinstance(name, str) or not (limit is None or type(limit) is int):
        raise PrunescopeError(
            f"{options.recipe} does not say how it was measured. Name a --protocol, or take a file "
            "that prune --json or the app wrote."
        )
    options.protocol = name
    options.limit = limit if options.limit is None else options.limit


def _print(report: dict[str, Any]) -> None:
    """Print what `Outcome.as_dict` returned."""
    run, delta = report["run"], report["delta"]
    protocol = run["protocol"]
    print(f"\n{run['model']} · {protocol['title']} · {protocol['source']}")
    print(
        f"{run['dtype']} on {run['device']} · recipe {run['digest']} · "
        f"{run['dense']['quality']['windows']:,} windows, "
        f"{run['dense']['quality']['tokens']:,} tokens"
    )
    if run["leaked"]:
        print("LEAK: calibration and measurement text overlap; these numbers flatter.")
    for side in ("dense", "pruned"):
        value = run[side]["quality"]["perplexity"]
        print(f"  {side:<8}{'perplexity':<12}{_number(value, '.3f')}")
    ends = (
        "no interval"
        if delta["low"] is None or delta["high"] is None
        else f"{delta['low']:+.2%}, {delta['high']:+.2%}"
    )
    print(f"  {'delta':<20}{_number(delta['value'], '+.2%')}  [{ends}]")
    print(f"  {'limit':<20}{report['limit']:+.2%}")
    print("In brackets: the 95 % bootstrap interval, paired on the same windows.")
    print(report["sentence"])


def _number(value: float | None, form: str) -> str:
    return "overflow" if value is None else f"{value:{form}}"
