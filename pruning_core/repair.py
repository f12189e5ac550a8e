"""Closed-form repair, as a recipe names it: what is done so that what stays makes up for what left.

How it is done is in `planning.repairing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

from pruning_core.errors import PrunescopeError, unknown_name

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-6, 10.0
PREFIXES = ("pruned", "dense")


class RepairKind(StrEnum):
    """What is done for the weights that stay.

    BIAS: what the removed units contributed on average is added to the output projection's bias
    (FLAP). RIDGE: what reads the units, or under weight patterns every pruned matrix, is solved
    again on what stays.
    """

    NONE = "none"
    BIAS = "bias"
    RIDGE = "ridge"


@dataclass(frozen=True)
class Repair:
    """A closed-form repair; prints as ``none``, ``ridge`` or ``ridge:damping=0.1,prefix=dense``.

    Attributes:
        kind: what is done.
        damping: of ridge regression, as a fraction of the mean squared input.
        prefix: what feeds a site while it is repaired: the layers below it ``pruned`` and repaired,
            or ``dense``, so that one pass over the text serves every plan.
        windows, length: how much text is looked at, out of the corpus that importance is estimated
            on.
    """

    kind: RepairKind = RepairKind.NONE
    damping: float = 0.01
    prefix: str = "pruned"
    windows: int = 64
    length: int = 256

    def __post_init__(self) -> None:
        number = isinstance(self.damping, int | float) and not isinstance(self.damping, bool)
        # Written so that NaN fails.
        if not number or not SMALLEST_DAMPING <= self.damping <= LARGEST_DAMPING:
            raise PrunescopeError(
                f"The damping of the repair is {self.damping!r}: it must be a number between "
                f"{SMALLEST_DAMPING} and {LARGEST_DAMPING}."
            )
        if self.prefix not in PREFIXES:
            raise unknown_name("prefix of the repair", str(self.prefix), PREFIXES)
        for name, least in (("windows", 1), ("length", 8)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise PrunescopeError(
                    f"The {name} of the repair are {value!r}: write a whole number of at least "
                    f"{least}."
                )

    def __str__(self) -> str:
        said = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "kind" and getattr(self, field.name) != field.default
        ]
        return f"{self.kind}:{','.join(said)}" if said else str(self.kind)

    def __bool__(self) -> bool:
        """Whether anything is done."""
        return self.kind is not RepairKind.NONE

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` printed.

        Raises:
            PrunescopeError: if it is no repair, or a value lies outside its range.
        """
        kind, colon, rest = text.partition(":")
        if kind not in set(RepairKind):
            raise unknown_name("repair", kind, RepairKind)
        known = _REPAIR_SETTINGS[RepairKind(kind)]
        values: dict[str, Any] = {}
        for part in rest.split(",") if colon else ():
            name, _, value = part.partition("=")
            if name not in known:
                raise unknown_name(f"setting of the repair {kind!r}", name, known)
            try:
                values[name] = known[name](value)
            except ValueError as error:
                raise PrunescopeError(
                    f"{part!r} is no setting of a repair: write it as in "
                    "'ridge:damping=0.1,prefix=dense,windows=64,length=256'."
                ) from error
        return cls(RepairKind(kind), **values)


_TEXT_SETTINGS: dict[str, Callable[[str], Any]] = {"windows": int, "length": int}
_REPAIR_SETTINGS: Mapping[RepairKind, Mapping[str, Callable[[str], Any]]] = {
    RepairKind.NONE: {},
    RepairKind.BIAS: _TEXT_SETTINGS,
    RepairKind.RIDGE: {"damping": float, "prefix": str, **_TEXT_SETTINGS},
}

NO_REPAIR = Repair()
