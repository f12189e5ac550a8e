"""Every colour of the figures, chosen to read on light and on dark backgrounds."""

from __future__ import annotations

IMPORTANCE = [
    (0.0, "#12304a"),
    (0.25, "#1d5f7a"),
    (0.5, "#2a9d8f"),
    (0.75, "#9ccf6b"),
    (1.0, "#ffe66d"),
]
"""From unimportant to important, one scale for all estimators."""

FUSION = [(0.0, "#8b5fd6"), (0.5, "#b9b4b8"), (1.0, "#f2a541")]
"""From coarse-grained (0) to fine-grained (1)."""

FINE, COARSE, FUSED = "#f2a541", "#8b5fd6", "#2a9d8f"

REMOVED = "rgba(128, 134, 139, 0.88)"
CUT = "#ff5a5f"
NEUTRAL = "#7d8b8a"
GRID = "rgba(128, 134, 139, 0.22)"
