"""``inspect``: what a model is made of and what it needs; no weight is read."""

from __future__ import annotations

import argparse
from typing import Any

from pruning_core.commands.options import model_options
from pruning_core.commands.output import emit
from pruning_core.printing import print_anatomy

HELP = "what a model is made of and what it needs"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Print the sites of a model and whether its memory will do.

    Raises:
        PrunescopeError: if there is no such model, or it cannot be pruned.
    """
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
    emit(options.json, lambda: as_json(report), lambda: print_anatomy(report))
