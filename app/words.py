"""Numbers as people read them."""

from __future__ import annotations

from pruning_core.recipe import SiteKind


def count(number: float) -> str:
    """Return a count in three digits: ``134 M``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            digits = number / size
            return f"{digits:.{max(0, 3 - len(str(int(digits))))}f} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Return bytes in three digits: ``269 MB``."""
    text = count(number)
    return text.replace("B", "G").rstrip() + ("B" if " " in text else " B")


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage: ``20.0 %``."""
    return f"{100 * share:.{digits}f} %"


def perplexity(value: float) -> str:
    """Return a perplexity: three decimals while they mean something, fewer once it is wrecked."""
    if value == float("inf"):
        return "overflow"
    if value < 100:
        return f"{value:.3f}"
    return f"{value:.1f}" if value < 10_000 else f"{value:.2e}"


def change(value: float, digits: int = 1) -> str:
    """Return a relative change with its sign: ``-12.3 %``."""
    return f"{100 * value:+.{digits}f} %"


def lane_name(kind: SiteKind) -> str:
    """Return the lane of a kind of site: ``MLP``, ``Attention``."""
    return "MLP" if kind is SiteKind.MLP else "Attention"
