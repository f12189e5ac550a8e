from __future__ import annotations

import dataclasses
import random

from pruning_core.history import SavedRun, frontier, tree
from tests.history.run_values import run, run_id


def numbers(runs: tuple[SavedRun, ...]) -> list[int]:
    return [int(found.name.split()[1]) for found in runs]


def point(number: int, parameters: int, perplexity: float | None, **changes: object) -> SavedRun:
    return run(number, parameters=parameters, perplexity=perplexity, **changes)


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    runs = [
        *(point(1, 90, 22.0), point(2, 80, 25.0), point(3, 85, 26.0), point(4, 60, 40.0)),
        *(point(5, 60, 45.0), point(6, 90, 23.0), point(7, 50, None)),
    ]
    assert numbers(frontier(runs)) == [4, 2, 1]
    random.Random(0).shuffle(runs)
    assert numbers(frontier(runs)) == [4, 2, 1]


def test_the_frontier_is_that_of_the_definition() -> None:
    draw = random.Random(0)
    for _ in range(100):
        runs = [point(n, draw.randrange(50, 60), float(draw.randrange(20, 30))) for n in range(12)]
        expected = {
            (a.parameters, a.perplexity)
            for a in runs
            if not any(
                b.parameters <= a.parameters
                and b.perplexity <= a.perplexity
                and (b.parameters, b.perplexity) != (a.parameters, a.perplexity)
                for b in runs
            )
        }
        found = frontier(runs)
        assert [(f.parameters, f.perplexity) for f in found] == sorted(expected)


def test_of_equals_the_first_stays() -> None:
    assert numbers(frontier([point(2, 80, 25.0), point(1, 80, 25.0)])) == [2]


def test_what_was_measured_otherwise_is_never_put_together() -> None:
    here, there = point(1, 90, 25.0), point(2, 80, 22.0, protocol="embedded")
    other_text, other_device = point(3, 80, 22.0, sha256="b" * 64), point(4, 80, 22.0, device="mps")
    assert numbers(frontier([here, there, other_text, other_device])) == [1, 2, 3, 4]


def test_what_flatters_and_what_the_dense_model_beats_are_not_on_it() -> None:
    assert frontier([point(1, 80, 21.0, leaked=True), point(2, 100, 20.5)]) == ()
    assert numbers(frontier([point(3, 100, 20.0), point(4, 100, 19.5)])) == [4]


def shape(runs: list[SavedRun]) -> list[tuple[str, str | None, int, int]]:
    return [(b.run.name, b.parent.name if b.parent else None, b.depth, b.forks) for b in tree(runs)]


def test_a_run_stands_under_what_it_came_of() -> None:
    runs = [run(1), run(2, (1,)), run(3), run(4, (1,)), run(5, (1, 2)), run(6, (1, 2, 5))]
    assert shape(runs) == [
        ("run 1", None, 0, 0),
        ("run 2", "run 1", 1, 1),
        ("run 5", "run 2", 2, 1),
        ("run 6", "run 5", 3, 1),
        ("run 4", "run 1", 1, 1),
        ("run 3", None, 0, 0),
    ]


def test_children_of_a_deleted_run_move_up() -> None:
    assert shape([run(1), run(3, (1, 2)), run(4, (1, 2, 3))]) == [
        ("run 1", None, 0, 0),
        ("run 3", "run 1", 1, 0),
        ("run 4", "run 3", 2, 0),
    ]
    assert shape([run(3, (1, 2))]) == [("run 3", None, 0, 0)]


def test_a_parent_may_look_younger_than_its_child() -> None:
    assert [row[0] for row in shape([run(1, (2,)), run(2)])] == ["run 2", "run 1"]


def test_a_ring_is_drawn_once_and_ends() -> None:
    ring = [run(1, (2,)), run(2, (1,)), run(3, (3,)), run(4)]
    assert sorted(row[0] for row in shape(ring)) == ["run 1", "run 2", "run 3", "run 4"]


def test_a_line_longer_than_the_stack_is_drawn() -> None:
    first = run(0)
    line = [
        dataclasses.replace(first, id=run_id(n), lineage=(run_id(n - 1),) if n else ())
        for n in range(3000)
    ]
    drawn = tree(line)
    assert [branch.depth for branch in drawn] == [*range(3000)]
    assert {branch.forks for branch in drawn} == {0}


def test_nothing_has_no_tree() -> None:
    assert tree([]) == ()
    assert frontier([]) == ()
