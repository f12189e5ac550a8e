"""``methods``: the estimators, corpora and protocols there are."""

from __future__ import annotations

import argparse

from pruning_core.commands.output import emit
from pruning_core.printing import print_methods

HELP = "estimators, corpora and protocols"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")


def run(options: argparse.Namespace) -> None:
    """Print every method with what it declares of itself."""
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
    emit(options.json, lambda: as_json(report), lambda: print_methods(report))
