"""How long work tells what it is doing and learns that it should stop.

Long functions of the core take a `Tick` and call it between steps. It does both jobs: whoever
listens sees the stage and how far it is, and a cancelled job leaves by the `Cancelled` it raises.
What gets better step by step may end before it is through: it catches `Enough`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

LEARNING_FUSION = "learning the fusion"
"""The stage whose work knows `Enough`."""


class Cancelled(Exception):
    """Raised by a `Tick` once its job has been asked to stop."""


class Enough(Cancelled):
    """Raised by a `Tick`: stop here and keep what there is. Who has nothing yet is cancelled."""


@dataclass(frozen=True)
class Progress:
    """One snapshot of a job: ``Progress("scoring", 3, 16, "layer 12")``.

    Attributes:
        stage: what is being done, as a participle: ``"scoring"``, ``"measuring"``.
        done: steps finished, of `total`.
        total: steps in all; 0 where the number is not known.
        note: a detail, such as the layer at hand.
    """

    stage: str = ""
    done: int = 0
    total: int = 0
    note: str = ""


class Tick(Protocol):
    """Report a step; raises `Cancelled` when the work has been called off, or is enough."""

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None: ...


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Report to nobody, never stop: the `Tick` of a script."""
