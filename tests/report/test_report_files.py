"""Files that nobody vouches for: whatever is missing or odd in one is told in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from pruning_core.commands import evaluate, survey
from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind
from pruning_core.report import READABLE, findings_of, report_of
from tests.history.run_values import FINGERPRINT, task, values
from tests.report import file_values

SMALL = Recipe("demo", FINGERPRINT, Scoring("fine"), ((SiteKey(0, SiteKind.MLP), 0.2),))
GOOD = {
    "run": values(SMALL, losses=[3.1, 3.2, 3.3], tasks={"boolq": task()}),
    "survey": file_values.survey(SMALL),
    "evaluation": file_values.evaluation(
        SMALL,
        tasks={"boolq": task()},
        samples=[{"prompt": "a", "dense": "b", "pruned": "c"}],
    ),
}
ODD = (None, True, "x", -1, 2.5, 1e308, 2**64, [], [1], {}, {"x": 1})


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to everything in plain values; of long lists only the first."""
    if way:
        yield way
    if isinstance(value, dict):
        for name, one in value.items():
            yield from places(one, (*way, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*way, 0))


def changed(value: dict[str, Any], way: tuple[Any, ...], to: Any) -> dict[str, Any]:
    """Return a copy with something else in one place, or nothing where `to` is `places`."""
    new = copy.deepcopy(value)
    inside: Any = new
    for name in way[:-1]:
        inside = inside[name]
    if to is places:
        del inside[way[-1]]
    else:
        inside[way[-1]] = to
    return new


def sentence(given: Any) -> str | None:
    """Return what is said of a file, None where a report is made of it; nothing else may happen."""
    try:
        page = report_of([given])
    except PrunescopeError as error:
        said = str(error)
        assert said.rstrip()[-1] in ".?"
        return said
    assert "nan" not in page.partition('<script type="application/json"')[0].lower()
    return None


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_file_is_reported(kind: str) -> None:
    assert sentence(GOOD[kind]) is None


@pytest.mark.parametrize("kind", GOOD)
def test_a_value_that_is_missing_never_breaks_it(kind: str) -> None:
    ways = [*places(GOOD[kind])]
    told = {way for way in ways if sentence(changed(GOOD[kind], way, places)) is not None}
    # What the page cannot do without.
    assert {("format",), ("model",), ("device",), ("dtype",), ("fingerprint",)} <= told


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_an_odd_value_never_breaks_it(kind: str, odd: object) -> None:
    told = [
        way for way in places(GOOD[kind]) if sentence(changed(GOOD[kind], way, odd)) is not None
    ]
    assert ("format",) in told


@pytest.mark.parametrize(
    ("kind", "way", "odd", "said"),
    [
        ("run", ("pruned", "cost", "bytes"), -1, "Its pruned.cost.bytes is -1: it must be a whole"),
        ("run", ("protocol", "source"), 3, "Its protocol.source is 3: it must be a text."),
        ("run", ("beside",), {}, "Its beside is a table: it must be a list."),
        ("run", ("beside",), [3], "Its beside holds something that is no table."),
        ("run", ("dense", "quality", "pieces", "tokens", 0), 0, "scored no token"),
        ("run", ("recipe", "sparsity"), {"9999999": {"mlp": 0.5}}, "names layer 9,999,999"),
        ("survey", ("rows", 0, "label"), None, "Its rows[0].label is null: it must be a text."),
        ("survey", ("complete",), 1, "Its complete is 1: it must be true or false."),
        ("survey", ("notes",), ["a", 1], "Its notes is a list: it must be a list of texts."),
        ("survey", ("dense",), None, "Its dense is None"),
        (
            "evaluation",
            ("protocols", "probe", "dense", "accuracy", "value"),
            1.5,
            "Its protocols.probe.dense.accuracy.value is 1.5: it must be a number from 0 to 1.",
        ),
        (
            "evaluation",
            ("protocols", "probe", "pruned", "perplexity", "value"),
            -2.0,
            "Its protocols.probe.pruned.perplexity.value is -2.0: it must be a number of at least",
        ),
        (
            "evaluation",
            ("tasks", "boolq", "dense", "acc", "value"),
            None,
            "acc.value is null: it must be a number.",
        ),
        ("evaluation", ("tasks", "boolq", "delta"), {}, "does not have the same metrics"),
        ("evaluation", ("fingerprint",), "other", "is for another model"),
        ("evaluation", ("samples", 0, "dense"), 3, "Its samples[0].dense is 3"),
    ],
)
def test_what_is_wrong_is_named(kind: str, way: tuple[Any, ...], odd: object, said: str) -> None:
    told = sentence(changed(GOOD[kind], way, odd))
    assert told is not None
    assert said in told


@pytest.mark.parametrize("given", [[], 3, None, "text", {}, {"format": 3}, {"format": {"a": 1}}])
def test_what_is_no_file_of_ours_is_told(given: object) -> None:
    with pytest.raises(PrunescopeError, match=r"It holds no table of values|Unknown format"):
        findings_of(given)


def test_another_format_is_named_with_those_there_are() -> None:
    with pytest.raises(PrunescopeError) as told:
        findings_of({"format": "prunescope-survey/2"})
    assert "Did you mean 'prunescope-survey/1'?" in str(told.value)


def test_formats_are_those_that_the_commands_write() -> None:
    assert {evaluate.FORMAT, survey.FORMAT} < {*READABLE}


def test_what_json_has_no_word_for_is_told() -> None:
    for odd in (float("nan"), float("inf"), object()):
        with pytest.raises(PrunescopeError, match="JSON has no word for"):
            report_of([{**values(), "extra": odd}])


def test_a_text_of_half_a_megabyte_and_deep_nesting_are_no_trouble() -> None:
    given = values()
    given["model"] = given["recipe"]["model"] = "x" * 500_000
    assert sentence(given) is None
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    told = sentence({**values(), "deep": deep})
    assert told is not None
    assert "JSON has no word for" in told
