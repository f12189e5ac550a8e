"""Importance: what each unit is worth, by whichever estimator.

Importing the room registers every estimator in `estimators/`.
"""

from pruning_core.importance import estimators as _estimators  # noqa: F401 - registers them
from pruning_core.importance.map import Fusion, ImportanceMap, SiteFusion, SiteScores, Tiles
from pruning_core.importance.registry import Estimator, Grain, Needs, Parameter

__all__ = [
    "Estimator",
    "Fusion",
    "Grain",
    "ImportanceMap",
    "Needs",
    "Parameter",
    "SiteFusion",
    "SiteScores",
    "Tiles",
]
