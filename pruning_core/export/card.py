"""What goes along with every export: the recipe, a model card, the licence, the tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pruning_core.errors import PrunescopeError
from pruning_core.export.folder import MANIFEST
from pruning_core.export.format import Preflight, Subject

RECIPE = "prunescope-recipe.json"

_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")


def write_companions(subject: Subject, found: Preflight, folder: Path) -> None:
    """Write what is not the format's own, except the proof.

    Raises:
        OSError: if it cannot be written.
    """
    subject.tokenizer.save_pretrained(folder)
    plan = subject.shelf.plan
    (folder / RECIPE).write_text(plan.recipe.to_json(), encoding="utf-8")
    kept = _copy_licences(subject.source, folder)
    (folder / "README.md").write_text(_card(subject, found, kept), encoding="utf-8")
    manifest = {
        "format": found.format,
        "model": subject.name,
        "fingerprint": subject.fingerprint,
        "recipe": plan.recipe.digest,
        "bytes": found.bytes,
    }
    if subject.recovery is not None:
        manifest["recovery"] = subject.recovery["adapters"]
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _copy_licences(source: Path | None, folder: Path) -> list[str]:
    """Copy the licence files that lie beside the dense model; return their names."""
    found = [path for name in _LICENCES for path in sorted(source.glob(name))] if source else []
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in found]


def _card(subject: Subject, found: Preflight, licences: list[str]) -> str:
    plan = subject.shelf.plan
    recipe = plan.recipe
    name = subject.name
    opens = ", ".join(found.opens)
    lines = [
        "---",
        "library_name: transformers",
        "tags: [pruned, prunescope]",
        "---",
        "",
        f"# {name}, pruned",
        "",
        f"Pruned from `{name}` (weights {subject.fingerprint}) with Prunescope.",
        "",
        f"- Removed: {plan.sparsity:.2%} of the prunable parameters, {plan.sparsity_of_all:.2%} of "
        f"all; {plan.parameters:,} are left.",
        f"- Pattern {recipe.pattern}, estimator {recipe.scoring.estimator}, repair "
        f"{recipe.repair}, calibrated on {recipe.scoring.calibration.corpus}.",
        *(training(subject.recovery) if subject.recovery is not None else []),
        f"- Recipe {recipe.digest}: `{RECIPE}` repeats it.",
        f"- Format: {found.title}. Opens in: {opens}.",
        *(f"- {note}" for note in found.notes),
        "- `prunescope-proof.json`, where it lies beside this file, says how far what a fresh "
        "process computed from these files was from the pruned model in memory.",
        "",
        "## Numbers",
        "",
        *_numbers(subject),
        "",
        "## Licence",
        "",
        f"The licence of the original model holds for this one too: see {', '.join(licences)}."
        if licences
        else "The licence of the original model holds for this one too. No licence file lay beside "
        "it: look it up where the model was published, before this one is passed on.",
        "",
    ]
    return "\n".join(lines)


def _numbers(subject: Subject) -> list[str]:
    run = numbers(subject.run) if subject.run else []
    if subject.recovery is None:
        return run or ["No measured run was given for this export."]
    trained = trained_numbers(subject.recovery)
    before = ["", "Before the training:", "", *run] if run else []
    return [*trained, *before] or ["The trained model was not measured."]


def numbers(run: Mapping[str, Any]) -> list[str]:
    """Return what a run measured, as lines of Markdown.

    Raises:
        PrunescopeError: if the run is not as `prune` writes it.
    """
    sides = ("dense", "pruned")
    return _checked(
        "run",
        "prune --json or the app wrote, or give the recipe alone",
        lambda: _table(
            run,
            run["dtype"],
            {name: (run[name]["quality"], run[name]["cost"]["parameters"]) for name in sides},
        ),
    )


def trained_numbers(record: Mapping[str, Any]) -> list[str]:
    """Return what was measured before and after a recovery, as lines of Markdown; none if nothing.

    Raises:
        PrunescopeError: if the record is not as `recover` writes it.
    """
    found = record.get("measured")
    if found is None:
        return []
    sides = ("dense", "pruned", "recovered")
    return _checked(
        "record of the recovery",
        "recover wrote",
        lambda: _table(
            found,
            record["dtype"],
            {name: (found[name]["quality"], found[name]["parameters"]) for name in sides},
        ),
    )


def training(record: Mapping[str, Any]) -> list[str]:
    """Return how a model was trained, as lines of Markdown.

    Raises:
        PrunescopeError: if the record is not as `recover` writes it.
    """
    return _checked("record of the recovery", "recover wrote", lambda: _training(record))


def _training(record: Mapping[str, Any]) -> list[str]:
    settings = record["settings"]
    distilled = (
        f", {settings['distill']:g} of the loss being the divergence from the dense model"
        if settings["distill"]
        else ""
    )
    masked = "; weights that had left stayed zero" if record["masked"] else ""
    return [
        f"- Trained after that: LoRA of rank {settings['rank']} (alpha {settings['alpha']}, "
        f"dropout {settings['dropout']:g}) on {record['text']['source']}, {record['steps']:,} "
        f"steps of {settings['batch']} samples of at most {settings['length']} tokens, AdamW at "
        f"{settings['rate']:g}{distilled}; merged into the weights{masked}.",
    ]


def _checked(what: str, cure: str, lines: Callable[[], list[str]]) -> list[str]:
    try:
        return lines()
    except (KeyError, TypeError, ValueError) as error:
        raise PrunescopeError(
            f"The {what} lacks a number that the model card shows ({error}). Take a file that "
            f"{cure}."
        ) from error


def _table(
    measured: Mapping[str, Any], dtype: str, sides: Mapping[str, tuple[Mapping[str, Any], int]]
) -> list[str]:
    protocol = measured["protocol"]
    tokens = next(iter(sides.values()))[0]["tokens"]
    rows = [
        f"| {name} | {_perplexity(quality['perplexity'])} | {quality['accuracy']:.2%} "
        f"| {parameters:,} |"
        for name, (quality, parameters) in sides.items()
    ]
    leak = ["", "Text that was learned from is measured: these numbers flatter."]
    return [
        f"Measured under: {protocol['title']} ({protocol['source']}), {tokens:,} tokens, {dtype}.",
        "",
        "| | perplexity | accuracy | parameters |",
        "|---|---|---|---|",
        *rows,
        *(leak if measured["leaked"] else []),
    ]


def _perplexity(value: float | None) -> str:
    return "overflow" if value is None else f"{value:.3f}"
