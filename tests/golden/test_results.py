"""The table of golden cases: complete, true, and with tolerances as they are stated."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import pytest
import torch

from tests.golden import results, vectors
from tests.golden.results import Finding, Row, Tolerance


@cache
def made() -> list[Row]:
    """Return the rows, computed once, within a test: there models run on one thread."""
    return results.rows()


def lines() -> Iterator[list[str]]:
    """Yield the cells of every row of the file, below its head."""
    table = [line for line in results.TABLE.read_text().splitlines() if line.startswith("|")]
    for line in table[2:]:
        yield [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def expanded(pattern: str) -> list[str]:
    """Return the names that ``layer{0,1}.x`` stands for."""
    before, brace, rest = pattern.strip("`").partition("{")
    numbers, _, after = rest.partition("}")
    return [f"{before}{number}{after}" for number in numbers.split(",")] if brace else [before]


def steady(text: str) -> str:
    """Return the document without the numbers that another machine may find a little different."""
    return re.sub(r"\b\d+ of (?=[\d,]+ differ)|\d\.\de[+-]\d\d", "…", text)


def test_every_tensor_that_is_no_input_is_named_once_with_its_status_and_tolerance() -> None:
    named: Counter[tuple[str, ...]] = Counter()
    for method, pattern, _, status, tolerance, *_ in lines():
        for name in expanded(pattern):
            named[method, name, status.strip("*"), tolerance] += 1
    entries = json.loads((vectors.HERE / "index.json").read_text())["tensors"]
    assert {e["status"] for e in entries} == {"reference", "derived", "input"}
    assert named == Counter(
        (
            results.METHODS[e["file"].removesuffix(".safetensors")][0],
            e["tensor"],
            e["status"],
            e["tolerance"].partition(" (smallest")[0],
        )
        for e in entries
        if e["status"] != "input"
    )
    assert set(named.values()) == {1}


def test_the_derived_are_named_as_such() -> None:
    derived = {cells[1] for cells in lines() if cells[3] == "**derived**"}
    assert derived == {f"`{row.pattern}`" for row in made() if row.status == "derived"}


def test_everything_passes() -> None:
    assert [row.cells for row in made() if not row.passed] == []
    assert {cells[-1] for cells in lines()} == {"pass"}


def test_the_file_is_what_is_found() -> None:
    """If it is not: ``python -m tests.golden.results``."""
    assert steady(results.TABLE.read_text()) == steady(results.markdown(made()))


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ("exact", Tolerance(0)),
        ("at most 4 differing entries", Tolerance(4)),
        ("at most 2 differing entries (smallest relative margin 6.1e-05)", Tolerance(2)),
        ("rtol 1e-4", Tolerance(None, True, rtol=1e-4)),
        ("atol 5e-3", Tolerance(None, True, atol=5e-3)),
        ("atol 0.01 (a count)", Tolerance(None, True, atol=0.01)),
        ("rtol 1e-3, atol 1e-5*max", Tolerance(None, True, 1e-3, 1e-5, of_largest=True)),
        ("rtol 1e-4, atol 1e-5*max|H|", Tolerance(None, True, 1e-4, 1e-5, of_largest=True)),
        ("atol 1e-05 where masks agree", Tolerance(None, True, atol=1e-5, agreeing=True)),
        (
            "mask: at most 4 differing entries; values atol 1e-4 where masks agree",
            Tolerance(4, True, atol=1e-4, agreeing=True),
        ),
    ],
)
def test_tolerances_are_read_as_they_are_stated(stated: str, read: Tolerance) -> None:
    assert Tolerance.parse(stated) == read


@pytest.mark.parametrize("stated", ["", "about right", "rtol", "rtol 1e-4, more or less"])
def test_a_tolerance_that_cannot_be_read_is_an_error(stated: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Tolerance.parse(stated)


GOLDEN = torch.tensor([0.0, 1.0, -2.0, 100.0])
WEIGHTS = "mask: at most 1 differing entries; values atol 1e-4 where masks agree"


@pytest.mark.parametrize(
    ("stated", "found", "passed"),
    [
        ("exact", [0, 1, -2, 100], True),
        ("exact", [0, 1, -2, 100.25], False),
        ("at most 2 differing entries", [1, 2, -2, 100], True),
        ("at most 2 differing entries", [1, 2, 2, 100], False),
        ("rtol 1e-2", [0, 1, -2, 100.9], True),
        ("rtol 1e-2", [0, 1, -2, 101.1], False),
        ("rtol 1e-2", [0.001, 1, -2, 100], False),
        ("rtol 1e-2", [0, 1, -2, torch.nan], False),
        ("atol 1e-2", [0.009, 1, -2, 100], True),
        ("atol 1e-2", [0.011, 1, -2, 100], False),
        ("rtol 1e-3, atol 1e-5*max", [9e-4, 1, -2, 100], True),
        ("rtol 1e-3, atol 1e-5*max", [2e-3, 1, -2, 100], False),
        (WEIGHTS, [5, 1, -2, 100], True),
        (WEIGHTS, [5, 0, -2, 100], False),
        (WEIGHTS, [5, 1.1, -2, 100], False),
        ("exact", [0, 1, -2], False),
    ],
)
def test_what_is_too_far_off_does_not_pass(stated: str, found: list[float], passed: bool) -> None:
    tensors = {"x": torch.tensor(found)}
    finding = Finding.of(tensors, {"x": GOLDEN}, "x", Tolerance.parse(stated))
    assert finding.passed == passed


def test_weights_with_a_mask_of_their_own_are_compared_by_it() -> None:
    golden = {"weight_a": torch.tensor([0.0, 1, 2]), "mask_a": torch.tensor([1, 0, 0])}
    found = {"weight_a": torch.tensor([0.0, 0, 2]), "mask_a": torch.tensor([1, 0, 0])}
    tolerance = Tolerance.parse("atol 1e-05 where masks agree")
    assert not Finding.of(found, golden, "weight_a", tolerance).passed
    found["mask_a"] = torch.tensor([1, 1, 0])
    assert Finding.of(found, golden, "weight_a", tolerance).passed
