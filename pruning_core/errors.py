"""The one exception that is meant for the user's eyes.

Its text is a sentence or two: what was wrong, what is allowed, what to do. The app shows it as it
is and goes on; the command line prints it and exits with code 2. Anything else that is raised is a
defect of ours and keeps its traceback for the log.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PrunescopeError(Exception):
    """Bad input or an impossible request, told in plain words with the cure."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> PrunescopeError:
    """Return the error for a name that is not in a closed set, with the nearest match.

    Args:
        what: the kind of thing, as a noun: ``"estimator"``.
        name: what the user wrote.
        known: every name that is allowed.
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return PrunescopeError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(names)}.")
