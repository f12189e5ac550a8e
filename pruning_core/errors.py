"""The one exception that is meant for the user's eyes.

Its text is a sentence or two: what was wrong, what is allowed, what to do. The app shows it as it
is and goes on; the command line prints it and exits with code 2. Anything else that is raised is a
defect of ours and keeps its traceback for the log; except that memory runs out in many places and
under many names, so that is recognised here and told in words too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MEMORY_CURE = (
    "Try a smaller model, a shorter window or fewer samples, or close other programs that use the "
    "device."
)
"""What to do when the memory ran out."""


class PrunescopeError(Exception):
    """Bad input or an impossible request, told in plain words with the cure."""


def memory_ran_out(error: BaseException) -> bool:
    """Return whether an error means that main memory or a device's was not enough.

    By name, since torch is not imported here: its ``OutOfMemoryError`` is no `MemoryError`, and
    its allocators for the CPU and for Apple's GPUs raise a plain `RuntimeError`.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    said = str(error)
    return "RuntimeError" in names and ("DefaultCPUAllocator" in said or "out of memory" in said)


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
