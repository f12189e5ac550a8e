"""From a scoring to its importance map.

The map names the scoring that was carried out. It is the one asked for, unless somebody had enough
before the estimator was through (see `pruning_core.progress.Enough`).
"""

from __future__ import annotations

import time
from dataclasses import replace

from pruning_core.importance.evidence import Evidence
from pruning_core.importance.map import ImportanceMap
from pruning_core.importance.registry import able
from pruning_core.recipe import STRUCTURED, Scoring


def score(scoring: Scoring, evidence: Evidence, fingerprint: str) -> ImportanceMap:
    """Run a scoring's estimator on evidence that was gathered for its calibration.

    Keep the map under its own scoring, which may not be the one asked for.

    Raises:
        PrunescopeError: for an unknown estimator or parameter, or one that scores no units.
        Cancelled: by the evidence's tick.
    """
    started = time.perf_counter()
    method = able(scoring.estimator, STRUCTURED)
    assert method.score is not None
    scored = method.score(evidence, method.settings(dict(scoring.params)))
    if scored.instead:
        params = method.canonical({**dict(scoring.params), **scored.instead})
        scoring = replace(scoring, params=params)
    return ImportanceMap(
        fingerprint=fingerprint,
        scoring=scoring,
        sites=scored.sites,
        tiles=scored.tiles,
        fusion=scored.fusion,
        comparable=scored.comparable,
        layers=scored.layers,
        seconds=time.perf_counter() - started,
    )
