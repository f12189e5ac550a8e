"""The command line: the same core as the app, without a browser.

    python -m pruning_core prune demo --estimator hybrid --sparsity 0.2 --corpus c4 \\
        --protocol wikitext2 --json run.json
    python -m pruning_core compare demo --estimators fine,coarse,random --sparsity 0.2 --seeds 3
    python -m pruning_core survey demo --corpus c4 --protocol wikitext2 --json survey.json
    python -m pruning_core evaluate demo --protocol wikitext2 --tasks piqa,arc_easy --limit 200
    python -m pruning_core importance demo --estimator fine --out fine.safetensors
    python -m pruning_core inspect demo
    python -m pruning_core recover demo --recipe run.json --preset quick --out trained
    python -m pruning_core export demo --recipe run.json --format per-layer --out pruned
    python -m pruning_core check run.json --max-ppl-delta 5%
    python -m pruning_core report run.json evaluation.json --out report.html
    python -m pruning_core runs
    python -m pruning_core methods

Exit codes: 0 done, 1 a recipe that does not hold (check), 2 bad input or memory that ran out (one
sentence on stderr says what, why and what to do), 130 stopped, 141 nobody reads what it prints.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pruning_core.commands import (
    check,
    compare,
    evaluate,
    export,
    importance,
    inspect,
    methods,
    prune,
    recover,
    report,
    runs,
    survey,
)
from pruning_core.errors import MEMORY_CURE, PrunescopeError, memory_ran_out

COMMANDS = {
    "prune": prune,
    "compare": compare,
    "survey": survey,
    "evaluate": evaluate,
    "importance": importance,
    "inspect": inspect,
    "recover": recover,
    "export": export,
    "check": check,
    "report": report,
    "runs": runs,
    "methods": methods,
}
"""The modules of the commands by name, in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    _quiet_libraries()
    try:
        _demand_places(options)
        code: int = options.command(options) or 0
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
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pruning_core", description="Prune language models and measure the result."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        chosen = commands.add_parser(name, help=command.HELP)
        command.add_options(chosen)
        chosen.set_defaults(command=command.run)
    return parser


def _demand_places(options: argparse.Namespace) -> None:
    """Refuse places that can't be written, before hours of work are done for them."""
    from pruning_core.files import demand_writable

    for name in ("json", "save_recipe", "out"):
        place = getattr(options, name, None)
        if place not in (None, "-"):
            demand_writable(Path(place))


def _quiet_libraries() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
