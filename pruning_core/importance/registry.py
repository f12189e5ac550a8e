"""What an estimator is, and the list of those there are.

An estimator is one file in `estimators/` that ends in one `register(...)`. It declares its name,
its paper, its parameters and what it needs; the command line, the app and the shared test battery
read the declaration and draw themselves from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.importance.map import Fusion, SiteScores, Tiles
from pruning_core.importance.weights import WeightMethod
from pruning_core.recipe import Pattern, PatternKind, Scalar, SiteKey

if TYPE_CHECKING:
    import torch

    from pruning_core.importance.evidence import Evidence


class Grain(StrEnum):
    """At which grain an estimator looks.

    FINE: weight by weight, summed over a unit. COARSE: a unit as a whole. HYBRID: a fusion of both.
    LAYER: a layer as a whole. BASELINE: something to be better than.
    """

    HYBRID = "hybrid"
    FINE = "fine"
    COARSE = "coarse"
    LAYER = "layer"
    BASELINE = "baseline"


class Needs(StrEnum):
    """The dearest thing an estimator asks for.

    NOTHING: shapes only. WEIGHTS: the dense weights. ACTIVATIONS: a forward pass over the
    calibration text. GRADIENTS: a backward pass too. TRAINING: gradients, and forward and backward
    passes of the masked model.
    """

    NOTHING = "nothing"
    WEIGHTS = "weights"
    ACTIVATIONS = "activations"
    GRADIENTS = "gradients"
    TRAINING = "training"

    @property
    def text(self) -> bool:
        """Whether the calibration text is looked at."""
        return self not in (Needs.NOTHING, Needs.WEIGHTS)


@dataclass(frozen=True)
class Parameter:
    """One setting of an estimator; the app draws a control from it.

    Attributes:
        name: as in recipes and on the command line.
        default: its value when nothing is said; its type is the parameter's type.
        help: one sentence for the person who sets it.
        low, high: bounds of a number, both allowed values.
        choices: the allowed values of a text.
    """

    name: str
    default: Scalar
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: object) -> Scalar:
        """Return `value` with the parameter's type.

        Raises:
            PrunescopeError: if it has another type or lies outside the bounds.
        """
        kind = type(self.default)
        # A whole number may stand for a float; a bool, an int to Python, may not.
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise PrunescopeError(
                f"Parameter {self.name!r} is {value!r}: it must be of the kind of its default, "
                f"{self.default!r}."
            )
        if self.choices and value not in self.choices:
            raise unknown_name(f"value of {self.name!r}", str(value), self.choices)
        if isinstance(value, int | float):
            # Written so that NaN fails both comparisons.
            above = self.low is None or value >= self.low
            below = self.high is None or value <= self.high
            if not (above and below):
                raise PrunescopeError(
                    f"Parameter {self.name!r} is {value}: it must lie between {self.low} and "
                    f"{self.high}."
                )
        assert isinstance(value, bool | int | float | str)
        return float(value) if kind is float else value


@dataclass(frozen=True)
class Scored:
    """What an estimator returns; fields as in `ImportanceMap`.

    Attributes:
        instead: settings that the scores were really made with, where they are not those asked for.
    """

    sites: Mapping[SiteKey, SiteScores]
    tiles: Mapping[str, Tiles] = field(default_factory=dict)
    fusion: Fusion | None = None
    comparable: Mapping[SiteKey, SiteScores] = field(default_factory=dict)
    layers: torch.Tensor | None = None
    instead: Mapping[str, Scalar] = field(default_factory=dict)


Settings = Mapping[str, Scalar]


@dataclass(frozen=True)
class Estimator:
    """A method that scores importance: of units, of single weights, or of both.

    Attributes:
        name: as in recipes and on the command line.
        title: as on screen.
        grain: at which grain it looks.
        needs: the dearest thing it asks for.
        summary: what it does, one sentence.
        formula: the score, in plain text.
        source: paper, section and equation, or that it is a reconstruction.
        score: evidence and settings in, scores of units out; writes nothing. None if it has no
            word on units.
        weights: how it prunes single weights; None if it does not.
        parameters: its settings.
    """

    name: str
    title: str
    grain: Grain
    needs: Needs
    summary: str
    formula: str
    source: str
    score: Callable[[Evidence, Settings], Scored] | None = None
    weights: WeightMethod | None = None
    parameters: tuple[Parameter, ...] = ()

    def follows(self, kind: PatternKind) -> bool:
        """Whether it can choose what leaves under a pattern."""
        return (self.score if kind is PatternKind.STRUCTURED else self.weights) is not None

    def settings(self, given: Mapping[str, object]) -> dict[str, Scalar]:
        """Return every parameter's value, the default where none was given.

        Raises:
            PrunescopeError: for an unknown parameter or a value that is not allowed.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                if not known:
                    raise PrunescopeError(f"{self.title} has no parameters, so no {name!r}.")
                raise unknown_name(f"parameter of {self.name}", name, known)
        return {
            name: parameter.check(given.get(name, parameter.default))
            for name, parameter in known.items()
        }

    def canonical(self, given: Mapping[str, object]) -> tuple[tuple[str, Scalar], ...]:
        """Return the given parameters that differ from their defaults, as a recipe keeps them."""
        values = self.settings(given)
        defaults = {parameter.name: parameter.default for parameter in self.parameters}
        return tuple(sorted((n, v) for n, v in values.items() if v != defaults[n]))


PREFIX = Parameter(
    "prefix",
    "pruned",
    "What feeds a layer while its weights are chosen: the layers below it already pruned, as the "
    "authors do, or still dense.",
    choices=("pruned", "dense"),
)
"""The parameter of weight-level methods that look at activations, layer by layer."""

THRESHOLD = Parameter(
    "threshold",
    "exact",
    "Exactly as many weights as asked, or inclusive as the authors' code does it: all scores up to "
    "and including the one at the cut, which is one weight more.",
    choices=("exact", "inclusive"),
)
"""The parameter of weight-level methods that rank many rows by one threshold."""

_ESTIMATORS: dict[str, Estimator] = {}


def register(estimator: Estimator) -> Estimator:
    """Add an estimator to the list; two of one name are a mistake in the code."""
    if estimator.name in _ESTIMATORS:
        raise ValueError(f"estimator {estimator.name!r} is registered twice")
    _ESTIMATORS[estimator.name] = estimator
    return estimator


def estimators(kind: PatternKind | None = None) -> tuple[Estimator, ...]:
    """Return the estimators that follow a kind of pattern, or all: by grain, and by name within."""
    found = (e for e in _ESTIMATORS.values() if kind is None or e.follows(kind))
    order = list(Grain)
    return tuple(sorted(found, key=lambda e: (order.index(e.grain), e.name)))


def estimator(name: str) -> Estimator:
    """Return an estimator by name.

    Raises:
        PrunescopeError: if there is none of that name, with the nearest match.
    """
    if name not in _ESTIMATORS:
        raise unknown_name("estimator", name, _ESTIMATORS)
    return _ESTIMATORS[name]


def able(name: str, pattern: Pattern) -> Estimator:
    """Return an estimator that can choose what leaves under a pattern.

    Raises:
        PrunescopeError: if there is none of that name, or it cannot.
    """
    method = estimator(name)
    if not method.follows(pattern.kind):
        others = ", ".join(other.name for other in estimators(pattern.kind))
        raise PrunescopeError(
            f"{method.title} cannot choose what leaves under the pattern '{pattern}'. Estimators "
            f"that can: {others}."
        )
    return method
