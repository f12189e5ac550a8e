"""Sensitivity curves: how the loss answers to pruning one site alone. Pure data and arithmetic.

The loss is the mean negative log-likelihood on probe text, nats per token; an increase is counted
from the dense model's. Between measured points a curve is a straight line in the signed square root
of the increase: near dense the loss grows with the square of what is taken away, and a straight
line through such points would promise damage where there is hardly any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pruning_core.model.anatomy import Anatomy, Site
from pruning_core.recipe import SiteKey

LEVELS = (1.0, 0.5, 0.25, 0.75)
"""The sparsities of a curve, in the order in which they are measured: its end first, since beyond
its last point nothing is known, and then its shape."""


@dataclass(frozen=True)
class Curve:
    """One site's curve.

    Attributes:
        points: (sparsity, increase of the loss in nats per token), ascending; (0, 0) goes without
            saying.
    """

    points: tuple[tuple[float, float], ...] = ()

    def at(self, sparsity: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the increase at any sparsities, of the same shape; beyond the last point flat."""
        known, increases = np.array(((0.0, 0.0), *self.points)).T
        roots = np.sign(increases) * np.sqrt(np.abs(increases))
        root = np.interp(np.asarray(sparsity, float), known, roots)
        return np.sign(root) * root**2

    def with_point(self, sparsity: float, increase: float) -> Curve:
        """Return a copy that knows one more point."""
        return Curve(tuple(sorted((dict(self.points) | {sparsity: increase}).items())))


@dataclass(frozen=True)
class Curves:
    """The curves of a model under one importance map and one probe.

    Attributes:
        dense: the loss of the dense model, nats per token.
        sites: what is known of each site; all of the model's, in layer order.
    """

    dense: float
    sites: Mapping[SiteKey, Curve]

    def with_point(self, key: SiteKey, sparsity: float, increase: float) -> Curves:
        """Return a copy that knows one more point."""
        return replace(
            self, sites={**self.sites, key: self.sites[key].with_point(sparsity, increase)}
        )

    def increases(self, sparsity: Mapping[SiteKey, float]) -> npt.NDArray[np.float64]:
        """Return what each site would cost alone, [sites]; a site that is not named is dense."""
        return np.array(
            [float(curve.at(sparsity.get(key, 0.0))) for key, curve in self.sites.items()]
        )


def no_curves(dense: float, sites: Iterable[Site]) -> Curves:
    """Return curves of which nothing is known yet."""
    return Curves(dense, {site.key: Curve() for site in sites})


def missing(
    curves: Curves, anatomy: Anatomy, levels: Sequence[float] = LEVELS
) -> list[tuple[SiteKey, float]]:
    """Return the points that are still to be measured, level by level, each a reachable sparsity.

    Levels that a coarse site reaches at the same width are one point.
    """
    points: dict[tuple[SiteKey, float], None] = {}
    for level in levels:
        for site in anatomy.sites:
            reached = site.snap(level).sparsity
            if reached > 0 and reached not in dict(curves.sites[site.key].points):
                points[site.key, reached] = None
    return list(points)


def steepest(curves: Curves, anatomy: Anatomy) -> tuple[SiteKey, float] | None:
    """Return the point that would teach most: the middle of the steepest gap between known ones.

    A gap is as steep as the loss rises across it, nats per token. None if no site has a reachable
    sparsity left in any gap.
    """
    found: tuple[float, SiteKey, float] | None = None
    for key, curve in curves.sites.items():
        site = anatomy.by_key[key]
        points = ((0.0, 0.0), *curve.points)
        for (low, before), (high, after) in pairwise(points):
            middle = site.snap((low + high) / 2).sparsity
            rise = abs(after - before)
            if low < middle < high and (found is None or rise > found[0]):
                found = (rise, key, middle)
    return None if found is None else found[1:]
