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
from pruning_core.recipe import Scalar, SiteKey

if TYPE_CHECKING:
    from pruning_core.importance.evidence import Evidence


class Grain(StrEnum):
    """At which grain an estimator looks.

    FINE: weight by weight, summed over a unit. COARSE: a unit as a whole. HYBRID: a fusion of both.
    BASELINE: something to be better than.
    """

    FINE = "fine"
    COARSE = "coarse"
    HYBRID = "hybrid"
    BASELINE = "baseline"


class Needs(StrEnum):
    """The dearest thing an estimator asks for.

    NOTHING: shapes only. WEIGHTS: the dense weights. GRADIENTS: a backward pass over the
    calibration text. TRAINING: gradients, and forward and backward passes of the masked model.
    """

    NOTHING = "nothing"
    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    TRAINING = "training"


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
    """What an estimator returns; fields as in `ImportanceMap`."""

    sites: Mapping[SiteKey, SiteScores]
    tiles: Mapping[str, Tiles] = field(default_factory=dict)
    fusion: Fusion | None = None


Settings = Mapping[str, Scalar]


@dataclass(frozen=True)
class Estimator:
    """A method that scores importance.

    Attributes:
        name: as in recipes and on the command line.
        title: as on screen.
        grain: at which grain it looks.
        needs: the dearest thing it asks for.
        summary: what it does, one sentence.
        formula: the score, in plain text.
        source: paper, section and equation, or that it is a reconstruction.
        score: evidence and settings in, scores out; writes nothing.
        parameters: its settings.
    """

    name: str
    title: str
    grain: Grain
    needs: Needs
    summary: str
    formula: str
    source: str
    score: Callable[[Evidence, Settings], Scored]
    parameters: tuple[Parameter, ...] = ()

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


_ESTIMATORS: dict[str, Estimator] = {}


def register(estimator: Estimator) -> Estimator:
    """Add an estimator to the list; two of one name are a mistake in the code."""
    if estimator.name in _ESTIMATORS:
        raise ValueError(f"estimator {estimator.name!r} is registered twice")
    _ESTIMATORS[estimator.name] = estimator
    return estimator


def estimators() -> tuple[Estimator, ...]:
    """Return every estimator: hybrids first, then fine, coarse, baselines; by name within."""
    order = [Grain.HYBRID, Grain.FINE, Grain.COARSE, Grain.BASELINE]
    return tuple(sorted(_ESTIMATORS.values(), key=lambda e: (order.index(e.grain), e.name)))


def estimator(name: str) -> Estimator:
    """Return an estimator by name.

    Raises:
        PrunescopeError: if there is none of that name, with the nearest match.
    """
    if name not in _ESTIMATORS:
        raise unknown_name("estimator", name, _ESTIMATORS)
    return _ESTIMATORS[name]
