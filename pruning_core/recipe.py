"""The recipe: everything needed to repeat a pruning, frozen and small.

Words of this project, used everywhere with these meanings and no others:

* *sparsity*: the fraction removed, 0 to 1.
* *layer*: one decoder block, counted from 0.
* *site*: a prunable place of a layer, its ``attention`` or its ``mlp``.
* *unit*: what structured pruning removes at a site: an MLP channel, or a key/value head with the
  query heads that share it.
* *pattern*: what leaves a site: whole units (``structured``, tensors shrink), single weights
  (``unstructured``, they become zero), or n of every m weights (such as ``2:4``, the same).
* *repair*: what is done for what stays, so that it makes up for what left.
* *locked* site: one that masters, presets and solvers leave at the sparsity it has.

A recipe says how importance is estimated (`Scoring`) and how much leaves each site. Which units
that are follows only together with an importance map: that is a plan. The same object serves the
app, the command line, links and files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

from pruning_core.errors import PrunescopeError, unknown_name
from pruning_core.repair import NO_REPAIR, Repair

FORMAT = "prunescope-recipe/1"

Scalar = bool | int | float | str


class SiteKind(StrEnum):
    """The two prunable places of a layer."""

    ATTENTION = "attention"
    MLP = "mlp"


class PatternKind(StrEnum):
    """What leaves: whole units, single weights, or some of every few weights."""

    STRUCTURED = "structured"
    UNSTRUCTURED = "unstructured"
    N_OF_M = "n:m"


@dataclass(frozen=True)
class Pattern:
    """What leaves a site; prints as ``structured``, ``unstructured`` or ``2:4``.

    Attributes:
        kind: of the pattern.
        n, m: of every `m` consecutive weights `n` become zero; 0 for the other kinds.
    """

    kind: PatternKind
    n: int = 0
    m: int = 0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.kind is PatternKind.N_OF_M else str(self.kind)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` printed.

        Raises:
            PrunescopeError: if it is no pattern.
        """
        n, colon, m = text.partition(":")
        if colon and n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m) <= LONGEST_BLOCK:
            return cls(PatternKind.N_OF_M, int(n), int(m))
        if text not in (PatternKind.STRUCTURED, PatternKind.UNSTRUCTURED):
            raise PrunescopeError(
                f"{text!r} is not a pattern: write 'structured', 'unstructured', or how many of "
                f"how many weights become zero, such as '2:4' (at most of {LONGEST_BLOCK})."
            )
        return cls(PatternKind(text))


LONGEST_BLOCK = 1024
"""The largest m of an n:m pattern."""

STRUCTURED = Pattern(PatternKind.STRUCTURED)


class SiteKey(NamedTuple):
    """A site by layer and kind; prints as ``12.mlp``."""

    layer: int
    kind: SiteKind

    def __str__(self) -> str:
        return f"{self.layer}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``12.mlp`` back.

        Raises:
            PrunescopeError: if the text is not a layer number, a dot and a site kind.
        """
        layer, _, kind = text.partition(".")
        if not layer.isdecimal() or kind not in set(SiteKind):
            raise PrunescopeError(
                f"{text!r} is not a site: write the layer number, a dot and 'attention' or 'mlp', "
                "such as '12.mlp'."
            )
        return cls(int(layer), SiteKind(kind))


def check_sparsity(value: object, where: str) -> float:
    """Return `value` as a sparsity.

    Raises:
        PrunescopeError: if it is not a number between 0 and 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PrunescopeError(f"The sparsity of {where} is {value!r}: it must be a number, 0 to 1.")
    if not 0 <= value <= 1:  # NaN fails both comparisons
        raise PrunescopeError(
            f"The sparsity of {where} is {value}: it is the fraction removed and must lie "
            "between 0 and 1."
        )
    return float(value)


@dataclass(frozen=True)
class Calibration:
    """The text that importance is estimated on.

    Attributes:
        corpus: a corpus name, or ``file:PATH``.
        windows: how many windows are drawn.
        length: tokens in a window.
        seed: what chooses the windows.
    """

    corpus: str = "embedded"
    windows: int = 16
    length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.corpus, str) or not self.corpus:
            raise PrunescopeError(
                f"Calibration corpus is {self.corpus!r}: it must be a corpus name, or 'file:PATH'."
            )
        for name, least in (("windows", 1), ("length", 8), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PrunescopeError(
                    f"Calibration {name} is {value!r}: it must be a whole number of at least "
                    f"{least}."
                )


@dataclass(frozen=True)
class Scoring:
    """How importance is estimated; with a model it identifies one importance map.

    Attributes:
        estimator: the name of a registered estimator.
        params: its parameters that differ from their defaults, as sorted (name, value) pairs.
        calibration: the text it looks at.
    """

    estimator: str = "hybrid"
    params: tuple[tuple[str, Scalar], ...] = ()
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def digest(self) -> str:
        """Twelve hex digits that change whenever the scoring does."""
        return _digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "estimator": self.estimator,
            "params": dict(self.params),
            "calibration": asdict(self.calibration),
        }

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Read what `as_dict` wrote.

        Raises:
            PrunescopeError: for unknown or missing fields, or values outside their range.
        """
        table = _table(values, "scoring")
        _only(table, {f.name for f in fields(cls)}, "scoring")
        calibration = _table(table.get("calibration", {}), "calibration")
        _only(calibration, {f.name for f in fields(Calibration)}, "calibration")
        return cls(
            estimator=_text(table, "estimator"),
            params=tuple(sorted(_table(table.get("params", {}), "params").items())),
            calibration=Calibration(**calibration),
        )


@dataclass(frozen=True)
class Recipe:
    """A pruning to be repeated: ``Recipe("demo", "3f…", Scoring("fine"), {(4, mlp): 0.2})``.

    Attributes:
        model: the model's reference, as text.
        fingerprint: what identifies its weights.
        scoring: how importance is estimated.
        sparsity: (site, sparsity) pairs in layer order; a site that is not named keeps everything.
        locks: sites that masters, presets and solvers must not touch.
        pattern: what kind of thing leaves.
        repair: what is done for what stays.
    """

    model: str
    fingerprint: str
    scoring: Scoring = field(default_factory=Scoring)
    sparsity: tuple[tuple[SiteKey, float], ...] = ()
    locks: frozenset[SiteKey] = frozenset()
    pattern: Pattern = STRUCTURED
    repair: Repair = NO_REPAIR

    def __post_init__(self) -> None:
        for site, value in self.sparsity:
            check_sparsity(value, f"site {site}")
        if len({site for site, _ in self.sparsity}) != len(self.sparsity):
            raise PrunescopeError("A recipe names a site twice: give each site one sparsity.")

    def at(self, site: SiteKey) -> float:
        """Return the sparsity asked for at a site, 0 where the recipe is silent."""
        return dict(self.sparsity).get(site, 0.0)

    def with_sparsity(self, sparsity: Mapping[SiteKey, float]) -> Recipe:
        """Return a copy in which the named sites have new sparsities."""
        merged = {**dict(self.sparsity), **sparsity}
        kept = sorted((site, float(value)) for site, value in merged.items() if value != 0)
        return replace(self, sparsity=tuple(kept))

    @property
    def repair_calibration(self) -> Calibration:
        """The text that a repair looks at: of the corpus that importance is estimated on."""
        return replace(
            self.scoring.calibration, windows=self.repair.windows, length=self.repair.length
        )

    @property
    def digest(self) -> str:
        """Twelve hex digits that change whenever anything in the recipe does."""
        return _digest(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; `from_dict` reads them back."""
        by_layer: dict[str, dict[str, float]] = {}
        for site, value in self.sparsity:
            by_layer.setdefault(str(site.layer), {})[str(site.kind)] = value
        return {
            "format": FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "scoring": self.scoring.as_dict(),
            "pattern": str(self.pattern),
            "repair": str(self.repair),
            "sparsity": by_layer,
            "locks": [str(site) for site in sorted(self.locks)],
        }

    def to_json(self) -> str:
        """Return the recipe as indented JSON."""
        return json.dumps(self.as_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a recipe, trusting nothing.

        Raises:
            PrunescopeError: if the text is not JSON, has unknown or missing fields, or values
                outside their range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise PrunescopeError(
                f"The recipe is not valid JSON (line {error.lineno}: {error.msg}). Save it again "
                "from the app, or with --save-recipe."
            ) from error
        except (ValueError, RecursionError) as error:  # numbers or nesting beyond all measure
            raise PrunescopeError(
                "The recipe cannot be read: it holds numbers or nesting that no recipe has. Save "
                "it again from the app, or with --save-recipe."
            ) from error
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Read what `as_dict` wrote; the same errors as `from_json`."""
        table = _table(values, "recipe")
        if table.get("format") != FORMAT:
            raise PrunescopeError(
                f"The recipe's format is {table.get('format')!r}; this version reads {FORMAT!r}."
            )
        names = {f.name for f in fields(cls)}
        _only(table, names | {"format"}, "recipe")
        sparsity = [
            (SiteKey.parse(f"{layer}.{kind}"), check_sparsity(value, f"site {layer}.{kind}"))
            for layer, kinds in _table(table.get("sparsity", {}), "sparsity").items()
            for kind, value in _table(kinds, f"sparsity of layer {layer}").items()
        ]
        locks = table.get("locks", [])
        if not isinstance(locks, list):
            raise PrunescopeError(f"The recipe's locks must be a list of sites, not {locks!r}.")
        return cls(
            model=_text(table, "model"),
            fingerprint=_text(table, "fingerprint"),
            scoring=Scoring.from_dict(table.get("scoring")),
            sparsity=tuple(sorted(sparsity)),
            locks=frozenset(SiteKey.parse(str(text)) for text in locks),
            pattern=Pattern.parse(str(table.get("pattern", STRUCTURED))),
            repair=Repair.parse(str(table.get("repair", NO_REPAIR))),
        )


def _digest(values: Mapping[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PrunescopeError(f"The recipe's {what} must be a JSON object, not {value!r}.")
    return value


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str) or not value:
        raise PrunescopeError(f"The recipe lacks its {name!r}, a text.")
    return value


def _only(table: Mapping[str, Any], known: set[str], what: str) -> None:
    for name in table:
        if name not in known:
            raise unknown_name(f"field of the {what}", name, known)
