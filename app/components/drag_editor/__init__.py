"""The drag editor: the sparsity of every layer as one shape, drawn on the importance map itself.

A column is a layer, a lane a kind of site. The browser draws and drags by itself; what crosses the
border is only what a person changed, as absolute values, and nothing of it is trusted.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import streamlit as st

from app import palette, state
from app.words import lane_name
from pruning_core.errors import PrunescopeError
from pruning_core.recipe import SiteKey, SiteKind, check_sparsity

_HERE = Path(__file__).parent
_MARKUP = """
<div class="drag-editor"></div>
"""

_COMPONENT = st.components.v2.component(
    "drag_editor",
    html=_MARKUP,
    css=(_HERE / "editor.css").read_text("utf-8"),
    js=(_HERE / "editor.js").read_text("utf-8"),
)

Stamp = tuple[str, int]
"""Which edit it is: the id that an editor in a browser gave itself, and its running number."""


@dataclass(frozen=True)
class SiteShape:
    """One column of one lane.

    Attributes:
        key: of the site.
        sparsity: what the recipe asks for, snapped: a fraction of the site's parameters, 0 to 1.
        locked: whether it stays as it is.
        steps: the sparsities it can have where those are few (attention), ascending; empty: any.
        importance: [bins] of its units, the most important first; empty where nothing is known.
    """

    key: SiteKey
    sparsity: float
    locked: bool
    steps: tuple[float, ...]
    importance: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Edit:
    """What a person did.

    Attributes:
        sparsity: of every unlocked site that was moved in the present stroke and is not yet in the
            sites that were passed in; absolute values, so that the last edit of a stroke is enough.
        toggled: locks to flip; each flip comes once, whether the edit is final or not.
        final: False while the pointer or a key is down.
    """

    sparsity: Mapping[SiteKey, float]
    toggled: frozenset[SiteKey]
    final: bool


def drag_editor(
    sites: Sequence[SiteShape],
    *,
    key: str,
    revision: str,
    layers: int,
    on_edit: Callable[[Edit], None],
    height: int = 420,
) -> None:
    """Draw the editor.

    Args:
        sites: the columns; a layer without a site stays empty.
        key: of the widget.
        revision: of the recipe that `sites` come from; comes back as ``data-revision`` on screen.
        layers: how many columns there are.
        on_edit: called with every edit before the page is drawn again.
        height: of everything, in pixels.
    """
    reader = EditReader(sites, seen=stamp(state.component_value(key)))

    def edited() -> None:
        edit = reader.read(state.component_value(key))
        if edit is not None:
            on_edit(edit)

    _COMPONENT(
        key=key,
        data=payload(sites, revision=revision, layers=layers, height=height, seen=reader.seen),
        on_edit_change=edited,
    )


def payload(
    sites: Sequence[SiteShape], *, revision: str, layers: int, height: int, seen: Stamp | None
) -> dict[str, Any]:
    """Return what the browser draws from, as JSON has it.

    `seen` tells the editor which of its edits these sites already answer.
    """
    return {
        "revision": revision,
        "layers": layers,
        "height": height,
        "seen": seen and {"editor": seen[0], "n": seen[1]},
        "colours": {
            "importance": palette.IMPORTANCE,
            "removed": palette.REMOVED,
            "cut": palette.CUT,
        },
        "lanes": [
            {"kind": kind.value, "title": lane_name(kind)}
            for kind in SiteKind
            if any(site.key.kind is kind for site in sites)
        ],
        "sites": [
            {
                "key": str(site.key),
                "layer": site.key.layer,
                "lane": site.key.kind.value,
                "sparsity": site.sparsity,
                "locked": site.locked,
                "steps": site.steps,
                "importance": b64encode(site.importance.tobytes()).decode("ascii"),
            }
            for site in sites
        ],
    }


class EditReader:
    """Reads what a browser sends to one drawing of the editor.

    Several edits can come before the next drawing: the page is drawn for the last of them only.
    """

    def __init__(self, sites: Sequence[SiteShape], seen: Stamp | None) -> None:
        """Take the sites as they were drawn, and the edit that is in them already."""
        self.seen = seen
        self._sites = {str(site.key): site for site in sites}
        self._locks = {name: site.locked for name, site in self._sites.items()}
        self._told: set[str] = set()

    def read(self, value: object) -> Edit | None:
        """Return the edit in a component's value, or None if it was read before or is none.

        What is no value of a site that was drawn, and not locked, is left out.
        """
        sent = _sent(value)
        number = stamp(value)
        if number is None or number == self.seen:
            return None
        self.seen = number
        before = dict(self._locks)
        for name, wanted in _mapping(sent.get("locks")).items():
            if name in self._locks and isinstance(wanted, bool):
                self._locks[name] = wanted
        moved = {}
        for name, asked in _mapping(sent.get("sparsity")).items():
            site = self._sites.get(name)
            # A site may have been moved before it was locked, or after it was unlocked.
            if site is None or (before[name] and self._locks[name]):
                continue
            try:
                sparsity = _snap(site, check_sparsity(asked, name))
            except PrunescopeError:
                continue
            if sparsity != site.sparsity or name in self._told:
                self._told.add(name)
                moved[site.key] = sparsity
        toggled = (self._sites[name].key for name in before if before[name] != self._locks[name])
        return Edit(moved, frozenset(toggled), sent.get("final") is True)


def stamp(value: object) -> Stamp | None:
    """Return which edit a component's value holds."""
    sent = _sent(value)
    editor, n = sent.get("editor"), sent.get("n")
    if isinstance(editor, str) and isinstance(n, int) and not isinstance(n, bool):
        return editor, n
    return None


def _sent(value: object) -> Mapping[str, object]:
    return _mapping(_mapping(value).get("edit"))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _snap(site: SiteShape, sparsity: float) -> float:
    if not site.steps:
        return sparsity
    return min(site.steps, key=lambda step: abs(step - sparsity))
