"""``recover``: prune a model, train adapters on what is left, and measure before and after."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core.commands.bench import load_model, planned
from pruning_core.commands.options import (
    model_options,
    protocol_options,
    read_protocol,
    read_recipe,
    recipe_option,
)
from pruning_core.commands.output import emit, narrator, note
from pruning_core.errors import PrunescopeError
from pruning_core.printing import print_recovery
from pruning_core.recovery.settings import LLM_PRUNER, PRESETS, Settings, preset

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.quality import Quality
    from pruning_core.planning.plan import Plan
    from pruning_core.progress import Tick
    from pruning_core.recipe import Recipe
    from pruning_core.recovery.lessons import Lessons
    from pruning_core.recovery.training import Point
    from pruning_core.surgery.workbench import Workbench

HELP = "train a pruned model (LoRA) to make up for what pruning cost, resumable"

_OPTIONS: tuple[tuple[str, str, type, str], ...] = (
    ("text", "--text", str, "a corpus, file:PATH (text, or .json/.jsonl rows), hub:ORG/NAME"),
    ("steps", "--steps", int, "steps of training"),
    ("epochs", "--epochs", int, "how often every sample is seen, where no steps are given"),
    ("rank", "--rank", int, "rank of the updates"),
    ("alpha", "--alpha", int, "their scale, times the rank"),
    ("dropout", "--dropout", float, "fraction of an adapter's inputs left out of a step"),
    ("rate", "--lr", float, "the learning rate at its highest"),
    ("warmup", "--warmup", int, "steps over which it rises, a tenth of all at the most"),
    ("length", "--length", int, "tokens in a sample at the most"),
    ("batch", "--batch", int, "samples in a step"),
    ("micro", "--micro", int, "of these so many go through the model at a time"),
    ("distill", "--distill", float, "weight of the divergence from the dense model, 0 to 1"),
    ("seed", "--seed", int, "draws samples, order and dropout"),
)
"""The settings that can be given: name, flag, type and what it is."""

_DEST = "recovery_"
# A recipe's own options are called length and seed too.


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)
    recipe_option(parser, "what to prune: a recipe, or a saved run")
    parser.add_argument(
        "--out",
        dest="folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="where checkpoints, adapters and recovery.json go; export --recover takes it",
    )
    parser.add_argument(
        "--preset",
        default=LLM_PRUNER,
        help=f"{' or '.join(PRESETS)}; what follows changes one setting of it "
        "(default: %(default)s)",
    )
    for name, flag, kind, about in _OPTIONS:
        usual = ", ".join(f"{getattr(p, name)}" for p in PRESETS.values())
        parser.add_argument(
            flag,
            dest=_DEST + name,
            type=kind,
            metavar="NAME" if kind is str else "N" if kind is int else "X",
            help=f"{about} (presets: {usual})",
        )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an earlier call left in --out"
    )
    parser.add_argument(
        "--probe", default="probe", help="protocol of the perplexity shown on the way"
    )
    parser.add_argument("--probe-every", type=int, default=10, metavar="N", help="in steps")
    parser.add_argument(
        "--save-every", type=int, default=20, metavar="N", help="a checkpoint every N steps"
    )
    protocol_options(parser)
    parser.add_argument(
        "--allow-leak", action="store_true", help="measure on text that is trained on too"
    )


def run(options: argparse.Namespace) -> None:
    """Prune, train and measure.

    Raises:
        PrunescopeError: for anything in the input that cannot be done.
    """
    from pruning_core.evaluation.perplexity import check_length
    from pruning_core.evaluation.protocol import protocol as protocol_named
    from pruning_core.recovery.folder import RecoveryFolder
    from pruning_core.recovery.lessons import probe_windows, read_lessons
    from pruning_core.recovery.training import Pace, recover
    from pruning_core.runs import as_json, environment
    from pruning_core.surgery.workbench import Workbench

    # Everything that can be refused without the model is, before it is loaded.
    protocol, probe = read_protocol(options), protocol_named(options.probe)
    settings = read_settings(options)
    pace = Pace(options.probe_every, options.save_every)
    recipe = read_recipe(options)
    assert recipe is not None
    place = RecoveryFolder(options.folder)
    place.demand(resume=options.resume)

    tick = narrator()
    loaded = load_model(options, recipe.scoring.calibration, tick)
    check_length(loaded.model, max(protocol.window, probe.window))
    lessons = read_lessons(settings, loaded.tokenizer, tick)
    windows, probe_leaks = probe_windows(
        probe, lessons, loaded.tokenizer, allow_leak=options.allow_leak, tick=tick
    )
    bench = Workbench(loaded.model)
    scales = _Scales(bench, protocol, loaded.tokenizer, tick)
    leaked = scales.guard(recipe, lessons, allow=options.allow_leak)
    plan = planned(loaded, bench, recipe, tick)
    scales.weigh("dense", None)
    scales.weigh("pruned", plan)
    steps = settings.steps_for(len(lessons.samples))
    done = recover(
        bench,
        plan,
        lessons,
        settings,
        options.folder,
        probe=windows,
        leaked=probe_leaks,
        pace=pace,
        resume=options.resume,
        heard=lambda point: _tell(point, steps),
        tick=tick,
    )
    scales.weigh("recovered", done.plan)
    bench.restore()
    measured = scales.as_dict(leaked=leaked)
    record = {**done.record, "measured": measured}
    place.note(record)
    report = {
        "model": str(loaded.ref),
        "fingerprint": loaded.fingerprint,
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "recipe": recipe.as_dict(),
        "digest": recipe.digest,
        **measured,
        "folder": str(options.folder),
        "recovery": record,
        "environment": environment(),
    }
    emit(options.json, lambda: as_json(report), lambda: print_recovery(report))


def read_settings(options: argparse.Namespace) -> Settings:
    """Return the preset that was asked for, with the settings that were given.

    Raises:
        PrunescopeError: if there is no such preset, or a setting is out of bounds.
    """
    given = {field.name: getattr(options, _DEST + field.name, None) for field in fields(Settings)}
    chosen = {name: value for name, value in given.items() if value is not None}
    if "epochs" in chosen and "steps" in chosen:
        raise PrunescopeError("--steps and --epochs both say how long to train: give one of them.")
    if "epochs" in chosen:
        chosen["steps"] = None
    return replace(preset(options.preset), **chosen)


class _Scales:
    """One protocol's text, and what was measured on it by the names of the models."""

    def __init__(
        self,
        bench: Workbench,
        protocol: Protocol,
        tokenizer: PreTrainedTokenizerBase,
        tick: Tick,
    ) -> None:
        from pruning_core.calibration import Split, load_text

        self._bench = bench
        self._protocol = protocol
        self._text = load_text(protocol.corpus, Split.MEASUREMENT, tick)
        self._spans = protocol.spans(self._text, tokenizer)
        self._tokenizer = tokenizer
        self._tick = tick
        self._found: dict[str, tuple[Quality, int]] = {}

    def guard(self, recipe: Recipe, lessons: Lessons, *, allow: bool) -> bool:
        """Return whether the measured text was learned from, by the recipe or in training.

        Raises:
            PrunescopeError: if it was, and that is not allowed.
        """
        from pruning_core.calibration import guard
        from pruning_core.pipeline import guard_recipes

        scored = [span.ids[-span.scored :].tolist() for span in self._spans]
        read = self._tokenizer.batch_decode(scored, skip_special_tokens=True)
        measured = replace(self._text, documents=tuple(read), joiner="")
        calibrated = guard_recipes([recipe], measured, allow=allow, tick=self._tick)
        return guard(lessons.text, measured, allow=allow) or calibrated

    def weigh(self, name: str, plan: Plan | None) -> None:
        """Measure a plan, None for dense; it stays applied."""
        from pruning_core.evaluation.perplexity import check_numbers, measure_spans

        with self._bench.applied(plan):
            quality = measure_spans(self._bench.model, self._spans, self._tick, name)
        check_numbers(quality, name)
        parameters = self._bench.anatomy.parameters if plan is None else plan.parameters
        self._found[name] = (quality, parameters)

    def as_dict(self, *, leaked: bool) -> dict[str, Any]:
        """Return `recovery_as_dict` of what was weighed."""
        from pruning_core.runs import recovery_as_dict

        return recovery_as_dict(self._protocol, self._text, self._found, leaked=leaked)


def _tell(point: Point, steps: int) -> None:
    if point.perplexity is not None:
        loss = "" if point.loss is None else f"loss {point.loss:.3f}, "
        note(f"step {point.step}/{steps}: {loss}perplexity of the probe {point.perplexity:.3f}")
