"""How a family names and couples its tensors: data, one small file a family."""

from pruning_core.model.anatomy.reader import read_anatomy
from pruning_core.model.anatomy.structure import (
    Anatomy,
    Coupling,
    HeadCount,
    Linear,
    Part,
    Refusal,
    Segment,
    Site,
    Width,
    most_ends,
)

__all__ = [
    "Anatomy",
    "Coupling",
    "HeadCount",
    "Linear",
    "Part",
    "Refusal",
    "Segment",
    "Site",
    "Width",
    "most_ends",
    "read_anatomy",
]
