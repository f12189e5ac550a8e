"""What the estimators that fuse both granularities share: their evidence, settings and result.

What they differ in is what decides the shares: `estimators/hybrid` and `estimators/saap` learn
them (see `fusion`), `estimators/blend` works them out.
"""

from __future__ import annotations

from collections.abc import Callable

from pruning_core.errors import PrunescopeError
from pruning_core.importance.evidence import Evidence
from pruning_core.importance.fusion import Divergence, Sites, Training, fused_scores
from pruning_core.importance.granularity import site_profiles
from pruning_core.importance.map import Fusion, Tiles
from pruning_core.importance.registry import Parameter, Scored, Settings
from pruning_core.model.anatomy import Anatomy, most_ends
from pruning_core.progress import Tick
from pruning_core.recipe import SiteKey, SiteKind

PARAMETERS = (
    Parameter("sparsity", 0.3, "The sparsity that masks are trained around.", 0.05, 0.9),
    Parameter("spread", 0.2, "Half the range of sparsities seen in training.", 0.0, 0.5),
    Parameter("steps", 96, "Optimiser steps.", 1, 10_000),
    Parameter("batch", 4, "Calibration windows in a step.", 1, 256),
    Parameter("windows", 96, "Calibration windows that training cycles through.", 1, 4096),
    Parameter(
        "settle",
        0.0,
        "Over this share of the steps, the last ones, the learning rates fall to nothing; 0 for "
        "never. 1 where steps are many.",
        0.0,
        1.0,
    ),
    Parameter(
        "masked",
        "both",
        "Where units leave while it learns: choose where they will leave later. Nothing is learned "
        "about the other sites.",
        choices=("both", *SiteKind),
    ),
    Parameter(
        "ends",
        0,
        "So many layers at either end stay dense while it learns: choose what will be protected "
        "later.",
        0,
        1_000,
    ),
    Parameter(
        "loop",
        "masked",
        "What it learns on: the model with units masked, or repaired by ridge regression as well. "
        "Choose the latter where a ridge repair will follow.",
        choices=("masked", "repaired"),
    ),
    Parameter(
        "stop",
        0,
        "After so many steps training ends, though it is laid out for all; 0 for never. Set when "
        "you keep what has been learned so far.",
        0,
        10_000,
    ),
)
"""The settings of those that learn."""

KINDS = {"both": frozenset(SiteKind)} | {str(kind): frozenset({kind}) for kind in SiteKind}
"""What the setting `masked` stands for."""

Learn = Callable[[Sites, Divergence, Training, Tick], Fusion]


def learned(evidence: Evidence, settings: Settings, learn: Learn) -> Scored:
    """Return fused scores and the record of how the fusion came to them.

    A fusion that was stopped early says so in ``instead``, so that its scores go by the settings
    that make them again.
    """
    masked = masked_sites(evidence.anatomy, str(settings["masked"]), int(settings["ends"]))
    profiles = all_profiles(evidence)
    training = Training(
        sparsity=float(settings["sparsity"]),
        spread=float(settings["spread"]),
        steps=int(settings["steps"]),
        batch=int(settings["batch"]),
        seed=evidence.seed,
        stop=int(settings["stop"]),
        masked=masked,
        settle=float(settings["settle"]),
    )
    divergence = evidence.divergence(
        int(settings["windows"]), repaired=settings["loop"] == "repaired"
    )
    fusion = learn(profiles, divergence, training, evidence.tick)
    done = len(fusion.curve)
    return fused(evidence, fusion, instead={"stop": done} if done < training.last else {})


def masked_sites(anatomy: Anatomy, kinds: str, ends: int) -> frozenset[SiteKey]:
    """Return the sites at which units leave while a fusion learns.

    Args:
        kinds: of `KINDS`, by name.
        ends: so many layers at either end stay dense.

    Raises:
        PrunescopeError: if that leaves no layer between.
    """
    most = most_ends(anatomy.layers)
    if ends > most:
        raise PrunescopeError(
            f"The setting 'ends' is {ends}: a model of {anatomy.layers} layers allows 0 to {most} "
            "dense ones at either end, so that there is one left to learn about."
        )
    between = range(ends, anatomy.layers - ends)
    return frozenset(
        site.key
        for site in anatomy.sites
        if site.key.kind in KINDS[kinds] and site.key.layer in between
    )


def all_profiles(evidence: Evidence) -> Sites:
    """Return every site with its profiles."""
    parts = evidence.taylor.parts
    return {
        site.key: (site, site_profiles(site, dict(parts[site.key])))
        for site in evidence.anatomy.sites
    }


def fused(evidence: Evidence, fusion: Fusion, instead: Settings | None = None) -> Scored:
    """Return the scores that a fusion makes; tiles are those of the fine-grained score."""
    return Scored(
        sites={key: fused_scores(site) for key, site in fusion.sites.items()},
        tiles={name: Tiles(t.fine, t.peak, t.shape) for name, t in evidence.taylor.tiles.items()},
        fusion=fusion,
        instead=instead or {},
    )
