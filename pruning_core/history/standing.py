"""How saved runs stand to each other: which are the best for their size, which came of which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pruning_core.history.saved import Conditions, SavedRun


@dataclass(frozen=True)
class Branch:
    """A run in the tree of a history.

    Attributes:
        run: itself.
        parent: the nearest of its ancestors that is still there; None for a root.
        depth: how many ancestors it has that are still there.
        forks: how many of the runs it came through, itself included, have siblings: how far to
            indent, so that a long line of changes does not wander off the page.
    """

    run: SavedRun
    parent: SavedRun | None
    depth: int
    forks: int


def frontier(runs: Iterable[SavedRun]) -> tuple[SavedRun, ...]:
    """Return the runs that no other beats in both size and perplexity, smallest first.

    Runs are only compared with those of equal conditions, and with their dense model, which is
    none of them. Of equals the first given stays. Runs whose calibration and measurement text
    overlap flatter, and those whose perplexity overflowed are no use: neither is ever the best.
    """
    groups: dict[Conditions, list[SavedRun]] = {}
    for run in runs:
        if not run.leaked:
            groups.setdefault(run.conditions, []).append(run)
    return tuple(run for group in groups.values() for run in _best(group))


def _best(runs: Sequence[SavedRun]) -> list[SavedRun]:
    best: list[SavedRun] = []
    for run in sorted(runs, key=lambda run: (run.parameters, run.perplexity)):
        beaten_by_dense = (
            run.parameters >= run.dense_parameters and run.perplexity > run.dense_perplexity
        )
        lowest = best[-1].perplexity if best else float("inf")
        if run.perplexity < lowest and not beaten_by_dense:
            best.append(run)
    return best


def tree(runs: Sequence[SavedRun]) -> tuple[Branch, ...]:
    """Return the runs of one model in drawing order: every run before those that came of it.

    Args:
        runs: siblings are drawn in this order.
    """
    by_id = {run.id: run for run in runs}
    children: dict[str | None, list[SavedRun]] = {}
    for run in runs:
        parent = next((id for id in reversed(run.lineage) if id in by_id), None)
        children.setdefault(parent, []).append(run)
    drawn: dict[str, Branch] = {}
    _draw(children.get(None, ()), None, children, drawn)
    for run in runs:  # what a damaged lineage has tied into a ring has no root
        if run.id not in drawn:
            _draw([run], None, children, drawn)
    return tuple(drawn.values())


def _draw(
    first: Iterable[SavedRun],
    parent: Branch | None,
    children: dict[str | None, list[SavedRun]],
    drawn: dict[str, Branch],
) -> None:
    """Add runs and all that came of them to what is drawn, without going round in a ring."""
    waiting = [(run, parent) for run in reversed([*first])]
    while waiting:
        run, above = waiting.pop()
        if run.id in drawn:
            continue
        siblings = children[above.run.id] if above else ()
        branch = Branch(
            run,
            above.run if above else None,
            above.depth + 1 if above else 0,
            above.forks + (len(siblings) > 1) if above else 0,
        )
        drawn[run.id] = branch
        waiting += [(child, branch) for child in reversed(children.get(run.id, ()))]
