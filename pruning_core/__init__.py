"""Prunescope's core: load a language model, score importance, plan, prune, measure.

    import pruning_core as pc

    model = pc.load("demo")
    sparsity = pc.uniform(pc.unit_places(pc.read_anatomy(model.model)), 0.2)
    recipe = pc.Recipe("demo", model.fingerprint, pc.Scoring("fine")).with_sparsity(sparsity)
    run = pc.prune(model, recipe, pc.protocol("embedded"))
    print(run.dense_quality.perplexity, run.entries[0].quality.perplexity)

The rooms, in the order in which the data walks through them; each imports only those before it:
`recipe`, `model` (with its `anatomy`), `calibration`, `importance`, `planning`, `surgery`,
`evaluation`, `runs`, `pipeline`. Names are imported when first asked for, so that light modules do
not wait for torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# torch's threads otherwise spin while they wait for each other; on a machine that also runs a
# browser they then take turns at blocking one another, a hundred times slower than asleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from pruning_core.evaluation.protocol import protocol
    from pruning_core.model.anatomy import read_anatomy
    from pruning_core.model.loading import load
    from pruning_core.pipeline import prune
    from pruning_core.planning.allocation import protect_ends, uniform, unit_places
    from pruning_core.recipe import Calibration, Recipe, Scoring
    from pruning_core.surgery.workbench import Workbench

__all__ = [
    "Calibration",
    "Recipe",
    "Scoring",
    "Workbench",
    "load",
    "protect_ends",
    "protocol",
    "prune",
    "read_anatomy",
    "uniform",
    "unit_places",
]

_HOMES = {
    "Calibration": "recipe",
    "Recipe": "recipe",
    "Scoring": "recipe",
    "Workbench": "surgery.workbench",
    "load": "model.loading",
    "protect_ends": "planning.allocation",
    "protocol": "evaluation.protocol",
    "prune": "pipeline",
    "read_anatomy": "model.anatomy",
    "uniform": "planning.allocation",
    "unit_places": "planning.allocation",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
