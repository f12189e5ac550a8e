"""Parts of a page that draw themselves anew while something is running. No other module makes one.

Each stands in a container of its own. When a part's turn follows a full run before the browser has
heard of all of that run, Streamlit 1.67 throws away what the run had drawn of the part. The browser
then clears the old part as stale, what comes after it moves up, and the part's next drawing takes
the place of its neighbour, which is gone until the next full run. Without neighbours nothing is
lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

import streamlit as st

POLL_SECONDS = 0.4

P = ParamSpec("P")


def polled(
    draw: Callable[P, None],
    *,
    running: bool,
    every: float = POLL_SECONDS,
    key: str | None = None,
) -> Callable[P, None]:
    """Return a function that draws a part here, and again and again while something is running.

    Args:
        draw: draws the part, with the arguments of the full run that drew it last.
        running: whether there is anything to wait for.
        every: seconds between two drawings.
        key: names the part, for whoever wants only it drawn anew.
    """
    part = st.fragment(draw, run_every=every if running else None, key=key)

    def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
        with st.container():
            part(*args, **kwargs)

    return drawn
