"""Numbers as a page shows them, each with its exact value beside it for programs that check.

`shown` gives ``<data value="21.61360190219445">21.61</data>``: the text is for people.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from markupsafe import Markup

from pruning_core.report.findings import Estimate

OVERFLOWED = "overflowed"
"""What stands for a number that no float holds."""

UNKNOWN = "–"
"""What stands where a file says nothing."""

NBSP = "\u00a0"

_HUGE = 1e9
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNTS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def perplexity(value: float) -> str:
    """Return a perplexity: two decimals while they mean something."""
    if math.isinf(value):
        return OVERFLOWED
    if value >= _HUGE:
        return f"{value:.2e}"
    return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"


def factor(value: float) -> str:
    """Return a perplexity by the dense one: ``1.234``, ``12,345``."""
    if math.isinf(value) or value >= _HUGE:
        return perplexity(value)
    digits = 3 if value < 2 else 2 if value < 100 else 0
    return f"{value:,.{digits}f}"


def times(value: float) -> str:
    """Return a perplexity beside the dense one: ``× 1.234``."""
    return f"×{NBSP}{factor(value)}"


def percent(share: float) -> str:
    """Return a share: ``42.24 %``."""
    return f"{100 * share:.2f}{NBSP}%"


def signed(difference: float) -> str:
    """Return a difference of two shares in percentage points, with its sign: ``−2.50``."""
    return f"{100 * difference:+.2f}".replace("-", "\u2212")


def points(difference: float) -> str:
    """Return a difference of two shares with its unit: ``−2.50 points``."""
    return f"{signed(difference)}{NBSP}points"


def count(number: float) -> str:
    """Return a count to the last one: ``113,281,344``."""
    return f"{number:,.0f}"


def rounded(number: float) -> str:
    """Return a count in a few digits: ``113 million``."""
    for size, name in _COUNTS:
        if number >= size:
            return f"{number / size:.3g}{NBSP}{name}"
    return count(number)


def size(number: float) -> str:
    """Return bytes, thousand by thousand: ``269.0 MB``."""
    for unit, name in _SIZES:
        if number >= unit:
            return f"{number / unit:.1f}{NBSP}{name}"
    return f"{number:.0f}{NBSP}B"


def seconds(number: float) -> str:
    """Return a time: ``4.6 s``, ``12 min 5 s``, ``3 h 4 min``."""
    if number < 60:
        return f"{number:.1f}{NBSP}s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def plain(number: float) -> str:
    """Return a small number in four digits."""
    return f"{number:.4g}"


def shown(value: float | None, form: Callable[[float], str]) -> Markup:
    """Return a number as HTML, its exact value beside it; nothing is known of None."""
    if value is None:
        return Markup('<span class="none">{}</span>').format(UNKNOWN)
    if math.isinf(value):
        return Markup('<data value="null">{}</data>').format(OVERFLOWED)
    return Markup('<data value="{}">{}</data>').format(repr(value), form(value))


def with_ends(
    estimate: Estimate,
    form: Callable[[float], str],
    bare: Callable[[float], str] | None = None,
) -> Markup:
    """Return a number as HTML with its interval on a second line, where there is one.

    Args:
        form: writes the number.
        bare: writes the ends of the interval, by default as the number.
    """
    told = shown(estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return told
    low, high = (shown(end, bare or form) for end in (estimate.low, estimate.high))
    return Markup('{} <span class="ends">{} to {}</span>').format(told, low, high)
