"""JSON out of a file that nobody vouches for: every value is checked where it is taken out.

A `Table` knows the way to itself, so that the sentence about a wrong value says where it lies.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning_core.errors import PrunescopeError

_LARGEST_COUNT = 2**63
_LARGEST_NUMBER = 1e300
_LONGEST_SHOWN = 60
_UNPRINTED = ("Cc", "Cs")  # Unicode's categories of control characters and of half characters
_TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, so that it reads as what it is not."""


def plain(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return values as JSON gives them back: only what a file can hold.

    Raises:
        PrunescopeError: if they hold anything that JSON has no word for.
    """
    try:
        text = json.dumps([dict(found) for found in values], allow_nan=False)
        return [dict(found) for found in json.loads(text)]
    except (TypeError, ValueError, RecursionError) as error:
        raise PrunescopeError(
            "What is to be reported holds something that JSON has no word for. Give what this "
            "program wrote with --json, or what its runs return as plain values."
        ) from error


def readable(text: str) -> str:
    """Return a text without what does not print, or would turn what follows; lines stay lines."""
    return "".join(
        letter
        for letter in text
        if letter in "\n\t"
        or (unicodedata.category(letter) not in _UNPRINTED and letter not in _TURNING)
    )


@dataclass(frozen=True)
class Table:
    """A JSON object and the way to it.

    Attributes:
        values: as read.
        where: such as ``protocols.c4.dense``; empty for the file itself.
    """

    values: Mapping[str, Any]
    where: str = ""

    def has(self, name: str) -> bool:
        """Return whether there is a value, and not null."""
        return self.values.get(name) is not None

    def table(self, name: str) -> Table:
        """Return an object in this one, an empty one where it is absent.

        Raises:
            PrunescopeError: if it is anything else.
        """
        value = self.values.get(name)
        if not isinstance(value, dict | None):
            raise self.wrong(name, "a table")
        return Table(value or {}, self._path(name))

    def tables(self, name: str) -> list[Table]:
        """Return the objects of a list; none where it is absent.

        Raises:
            PrunescopeError: if it is no list, or one of them is no object.
        """
        value = self.values.get(name)
        if not isinstance(value, list | None):
            raise self.wrong(name, "a list")
        if not all(isinstance(one, dict) for one in value or ()):
            raise PrunescopeError(f"Its {self._path(name)} holds something that is no table.")
        return [Table(one, f"{self._path(name)}[{at}]") for at, one in enumerate(value or ())]

    def parts(self) -> Iterator[tuple[str, Table]]:
        """Yield the objects in this one, by name; the same errors as `table`."""
        for name in self.values:
            yield readable(name), self.table(name)

    def text(self, name: str) -> str:
        """Return a text that can be shown.

        Raises:
            PrunescopeError: if it is absent or anything else.
        """
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return readable(value)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; none where it is absent. The same errors as `text`."""
        value = self.values.get(name)
        if not isinstance(value, list | None) or not all(
            isinstance(one, str) for one in value or ()
        ):
            raise self.wrong(name, "a list of texts")
        return [readable(one) for one in value or ()]

    def number(
        self, name: str, lowest: float = -_LARGEST_NUMBER, highest: float = _LARGEST_NUMBER
    ) -> float:
        """Return a number between two others.

        Raises:
            PrunescopeError: if it is absent, anything else, or lies outside.
        """
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "a number")
        if not lowest <= value <= highest or not math.isfinite(value):
            raise self.wrong(name, _between(lowest, highest))
        return float(value)

    def count(self, name: str) -> int:
        """Return a whole number, 0 or more; the same errors as `number`."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST_COUNT:
            raise self.wrong(name, "a whole number, 0 or more")
        return value

    def flag(self, name: str) -> bool:
        """Return whether something is so.

        Raises:
            PrunescopeError: if it is absent or anything else.
        """
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def wrong(self, name: str, expected: str) -> PrunescopeError:
        """Return the error for a value that is not what it should be."""
        value = self.values.get(name)
        found = "missing" if name not in self.values else _short(value)
        return PrunescopeError(f"Its {self._path(name)} is {found}: it must be {expected}.")

    def _path(self, name: str) -> str:
        return readable(f"{self.where}.{name}" if self.where else name)[-_LONGEST_SHOWN:]


def _between(lowest: float, highest: float) -> str:
    if highest == _LARGEST_NUMBER:
        return "a number" if lowest == -_LARGEST_NUMBER else f"a number of at least {lowest:g}"
    return f"a number from {lowest:g} to {highest:g}"


def _short(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = "null" if value is None else repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
