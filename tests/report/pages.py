"""A report read back: what stands where on the page, by Python's own HTML parser."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "link", "img", "input", "hr"}


@dataclass
class Part:
    """An element: its name, its attributes, what is in it."""

    name: str
    attributes: dict[str, str]
    inside: list[Part | str] = field(default_factory=list)

    def all(self, name: str, kind: str = "") -> list[Part]:
        """Return the elements in this one of a name, and of a class where one is given."""
        found = []
        for part in self.inside:
            if isinstance(part, Part):
                if part.name == name and (not kind or kind in part.kinds):
                    found.append(part)
                found += part.all(name, kind)
        return found

    @property
    def kinds(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        """All text, spaces run together."""
        joined = "".join(part if isinstance(part, str) else part.text for part in self.inside)
        return " ".join(joined.replace("\u00a0", " ").split())

    def sections(self) -> dict[str, Part]:
        """Return the page's sections by their ids."""
        return {section.attributes["id"]: section for section in self.all("section")}

    def section(self, id: str) -> Part:
        """Return the section of an id, which must be there."""
        return self.sections()[id]

    def rows(self) -> dict[str, list[Part]]:
        """Return the cells of all tables in this element by what their rows are called."""
        found: dict[str, list[Part]] = {}
        for row in self.all("tr"):
            if row.all("td"):
                found.setdefault(row.all("th")[0].text, []).extend(row.all("td"))
        return found

    def numbers(self) -> list[float]:
        """Return every exact number in this element; infinite where it overflowed."""
        values = [part.attributes["value"] for part in self.all("data")]
        return [math.inf if value == "null" else float(value) for value in values]

    def embedded(self) -> list[dict[str, Any]]:
        """Return the files' values that the page carries."""
        (script,) = [s for s in self.all("script") if s.attributes.get("id") == "values"]
        (text,) = script.inside
        assert isinstance(text, str)
        return json.loads(text)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Part("", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        part = Part(tag, {name: value or "" for name, value in attrs})
        self._open[-1].inside.append(part)
        if tag not in VOID:
            self._open.append(part)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        part = Part(tag, {name: value or "" for name, value in attrs})
        self._open[-1].inside.append(part)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"{tag} closes {self._open[-1].name}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].inside.append(data)


def read(page: str) -> Part:
    """Return a page as its elements; every one of them must be closed in its turn."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader._open) == 1
    return reader.root
