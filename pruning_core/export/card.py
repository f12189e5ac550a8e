"""What goes along with every export: the recipe, a model card, the licence, the tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
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
        f"- Recipe {recipe.digest}: `{RECIPE}` repeats it.",
        f"- Format: {found.title}. Opens in: {opens}.",
        *(f"- {note}" for note in found.notes),
        "- `prunescope-proof.json`, where it lies beside this file, says how far what a fresh "
        "process computed from these files was from the pruned model in memory.",
        "",
        "## Numbers",
        "",
        *(numbers(subject.run) if subject.run else ["No measured run was given for this export."]),
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


def numbers(run: Mapping[str, Any]) -> list[str]:
    """Return what a run measured, as lines of Markdown.

    Raises:
        PrunescopeError: if the run is not as `prune` writes it.
    """
    try:
        return _table(run)
    except (KeyError, TypeError, ValueError) as error:
        raise PrunescopeError(
            f"The run lacks a number that the model card shows ({error}). Take a file that prune "
            "--json or the app wrote, or give the recipe alone."
        ) from error


def _table(run: Mapping[str, Any]) -> list[str]:
    protocol = run["protocol"]
    rows = [
        f"| {name} | {_perplexity(run[name]['quality']['perplexity'])} "
        f"| {run[name]['quality']['accuracy']:.2%} | {run[name]['cost']['parameters']:,} |"
        for name in ("dense", "pruned")
    ]
    leak = [
        "",
        "Calibration and measurement text overlap: these numbers flatter.",
    ]
    return [
        f"Measured under: {protocol['title']} ({protocol['source']}), "
        f"{run['pruned']['quality']['tokens']:,} tokens, {run['dtype']}.",
        "",
        "| | perplexity | accuracy | parameters |",
        "|---|---|---|---|",
        *rows,
        *(leak if run["leaked"] else []),
    ]


def _perplexity(value: float | None) -> str:
    return "overflow" if value is None else f"{value:.3f}"
