"""Marks of SVG drawings: coordinates in, escaped markup out. Colours are left to classes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

CHARACTER = 6.7
"""Units of a drawing that a letter is wide, on average; its text is 12 of them high."""


def drawing(width: float, height: float, title: str, parts: Iterable[Markup], kind: str) -> Markup:
    """Return a whole drawing that grows and shrinks with its page.

    Args:
        width, height: in its own units.
        title: what it shows, for those who do not see it.
        kind: a class.
    """
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}" '
        'preserveAspectRatio="xMinYMin meet">{}</svg>'
    ).format(kind, _at(width), _at(height), title, Markup("").join(parts))


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> Markup:
    """Return a line of text whose baseline is at `y`."""
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
        _at(x), _at(y), kind, anchor, content
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line."""
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
        *(_at(place) for place in (x1, y1, x2, y2)), kind
    )


def rectangle(x: float, y: float, width: float, height: float, kind: str, told: str = "") -> Markup:
    """Return a filled rectangle; `told` appears where a pointer rests on it."""
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}">{}</rect>').format(
        *(_at(place) for place in (x, y, width, height)), kind, _told(told)
    )


def mark(x: float, y: float, shape: str, kind: str, told: str = "") -> Markup:
    """Return a circle, a square or a diamond around a place."""
    if shape == "circle":
        return Markup('<circle cx="{}" cy="{}" r="5" class="{}">{}</circle>').format(
            _at(x), _at(y), kind, _told(told)
        )
    corners = _DIAMOND if shape == "diamond" else _SQUARE
    path = "M" + "L".join(f"{_at(x + dx)} {_at(y + dy)}" for dx, dy in corners) + "Z"
    return Markup('<path d="{}" class="{}">{}</path>').format(path, kind, _told(told))


def shortened(content: str, width: float) -> str:
    """Return a text that fits into a width, cut off where it must be."""
    letters = max(int(width / CHARACTER), 2)
    return content if len(content) <= letters else f"{content[: letters - 1]}…"


_DIAMOND = ((0, -7.5), (7.5, 0), (0, 7.5), (-7.5, 0))
_SQUARE = ((-4.6, -4.6), (4.6, -4.6), (4.6, 4.6), (-4.6, 4.6))


def _told(content: str) -> Markup:
    return Markup("<title>{}</title>").format(content) if content else Markup("")


def _at(place: float) -> str:
    return f"{place:.2f}".rstrip("0").rstrip(".")
