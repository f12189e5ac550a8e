"""The importance map: what one estimator thinks of one model on one text.

Scores rank units within a site; nothing here compares sites. Unit scores are exact; of the weights
only reduced tiles are kept, so that a map of a model of seven billion weights stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from pruning_core.recipe import Scoring, SiteKey


@dataclass(frozen=True)
class SiteScores:
    """Importance at one site, higher is kept longer.

    Attributes:
        units: fp32 [units]: channels, or key/value groups as a whole.
        heads: fp32 [query heads] for attention, ranking heads inside their group; None for an MLP.
    """

    units: torch.Tensor
    heads: torch.Tensor | None = None

    @property
    def ranked(self) -> torch.Tensor:
        """What is compared and drawn: query heads where there are any, else units."""
        return self.units if self.heads is None else self.heads


@dataclass(frozen=True)
class Tiles:
    """The importance of one matrix's weights, reduced to a grid of tiles.

    Attributes:
        mean: fp32 [tile rows, tile columns], the mean score of a tile's weights.
        peak: the same shape, the largest score in the tile.
        shape: the matrix's own shape, [out, in].
    """

    mean: torch.Tensor
    peak: torch.Tensor
    shape: tuple[int, int]


@dataclass(frozen=True)
class SiteFusion:
    """What a fusion decided at one site.

    Attributes:
        fine, coarse: the two granularities it chose between, each normalised to mean 1 over the
            units of the site.
        attention: for every unit the share given to the fine-grained score, 0 to 1; the coarse one
            has the rest. These are the very numbers that ranked the units.
    """

    fine: SiteScores
    coarse: SiteScores
    attention: SiteScores


@dataclass(frozen=True)
class Fusion:
    """The record of a fusion.

    Attributes:
        curve: the training loss of every step, KL to the dense model in nats per token; empty for a
            fusion that does not learn.
        sites: what it decided, by site.
    """

    curve: tuple[float, ...]
    sites: Mapping[SiteKey, SiteFusion]


@dataclass(frozen=True)
class ImportanceMap:
    """The scores of one estimator on one model and one calibration set.

    Attributes:
        fingerprint: identifies the model's weights.
        scoring: estimator, parameters and calibration.
        sites: scores of every prunable site.
        tiles: reduced maps of weights by tensor name, for estimators that look at single weights.
        fusion: how a fusion came to its scores.
        comparable: scores that can be compared across sites, for estimators that say how.
        layers: fp32 [layers], what each layer as a whole is worth, for estimators that say so.
        seconds: time it took.
    """

    fingerprint: str
    scoring: Scoring
    sites: Mapping[SiteKey, SiteScores]
    tiles: Mapping[str, Tiles] = field(default_factory=dict)
    fusion: Fusion | None = None
    comparable: Mapping[SiteKey, SiteScores] = field(default_factory=dict)
    layers: torch.Tensor | None = None
    seconds: float = 0.0

    def compared(self, key: SiteKey) -> torch.Tensor:
        """Return what a site's units, or its query heads, are worth beside those of other sites.

        Without a word of the estimator's on that, their scores over the site's mean.
        """
        if key in self.comparable:
            return self.comparable[key].ranked
        scores = self.sites[key].ranked
        mean = scores.mean()
        return scores / mean if mean > 0 else scores
