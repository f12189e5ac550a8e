"""What closed-form repair costs, against one plain forward pass over the text it looks at.

    python -m tests.benchmarks.repair [--device auto] [--dtype auto] [--json FILE]

The demo model, 20 % of every site gone, the recipe's usual 64 windows of 256 tokens.

    gathering    second moments of the inputs of all 60 output projections, once for every recipe
    one site     a site moved on the tuner: solved again from those moments
    all sites    a recipe whose every site is new, from those moments
    the walk     the same behind the pruned and repaired prefix, layer by layer

All as ratios to the forward pass, and in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pruning_core.importance.evidence import evidence_for
from pruning_core.planning.resolving import Resolver
from pruning_core.recipe import Calibration, Recipe, SiteKey, SiteKind
from pruning_core.repair import Repair
from pruning_core.surgery.workbench import Workbench
from tests.benchmarks import measuring
from tests.maps import random_map

SPARSITY = 0.2
MOVED = SiteKey(15, SiteKind.MLP)


def main() -> None:
    """Print a row for each kind of work."""
    given = measuring.options(__doc__, repeats=3)
    loaded = measuring.demo(given)
    bench = Workbench(loaded.model)
    device, anatomy = bench.model.device, bench.anatomy
    repair = Repair.parse("ridge:prefix=dense")
    recipe = Recipe("demo", loaded.fingerprint, repair=repair).with_sparsity(
        {site.key: SPARSITY for site in anatomy.sites}
    )
    walked = Recipe("demo", loaded.fingerprint, repair=Repair.parse("ridge")).with_sparsity(
        dict(recipe.sparsity)
    )

    def looking(calibration: Calibration) -> Any:
        return evidence_for(bench.model, loaded.tokenizer, anatomy, calibration)

    seen = looking(recipe.repair_calibration)
    windows = seen.windows
    seen.moments(hessian=True)
    maps = (random_map(anatomy, seed, loaded.fingerprint) for seed in range(10_000))

    def resolver(evidence: Callable[[Calibration], Any]) -> Resolver:
        return Resolver(bench.model, anatomy, loaded.fingerprint, bench.dense, evidence)

    @torch.no_grad()
    def plain() -> None:
        for ids in windows:
            bench.model(input_ids=ids[None].to(device), use_cache=False)

    moved = Recipe("demo", loaded.fingerprint, repair=repair).with_sparsity({MOVED: SPARSITY})
    works: dict[str, Callable[[], object]] = {
        "gathering": lambda: looking(recipe.repair_calibration).moments(hessian=True),
        "one site": lambda: resolver(lambda _text: seen).units(moved, next(maps)),
        "all sites": lambda: resolver(lambda _text: seen).units(recipe, next(maps)),
        "the walk": lambda: resolver(lambda _text: seen).units(walked, next(maps)),
    }
    print(f"{loaded.device} {loaded.dtype}, {torch.get_num_threads()} threads")
    print(f"{'':<12}{'s':>10}{'plain s':>10}  ratio")
    rows = []
    for name, work in works.items():
        ratio, took, pass_took = measuring.sandwiched(
            lambda work=work: measuring.seconds(work, device),
            lambda: measuring.seconds(plain, device),
            given.repeats,
        )
        print(f"{name:<12}{took:>10.3f}{pass_took:>10.3f}  {ratio}", flush=True)
        rows.append({"work": name, "seconds": took, "ratio": ratio.as_dict()})
    measuring.report(given, "repair", str(loaded.device), rows)


if __name__ == "__main__":
    main()
