"""``report``: from what the other commands write to one HTML file, or to a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.history import run_values
from tests.report import pages

Run = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A run as ``prune --json`` writes it."""
    place = tmp_path / "run.json"
    place.write_text(json.dumps(run_values.values()))
    return place


def test_from_pruning_and_evaluating_to_a_page(folder: Path, tmp_path: Path, run: Run) -> None:
    pruned, evaluated, surveyed = (tmp_path / f"{name}.json" for name in ("run", "eval", "survey"))
    short = ("--protocol", "embedded", "--limit", 3)
    for words in (
        ("prune", folder, "--estimator", "magnitude", "--sparsity", 0.3, *short, "--json", pruned),
        ("evaluate", folder, "--recipe", pruned, "--samples", *short, "--json", evaluated),
        ("survey", folder, "--only", "magnitude", *short, "--json", surveyed),
    ):
        code, _, err = run(*words)
        assert code == 0, err
    out = tmp_path / "new" / "report.html"
    code, said, err = run(
        *("report", pruned, evaluated, surveyed, "--out", out, "--title", "Shall we?")
    )
    assert (code, err) == (0, "")
    assert f"Written: {out}" in said
    page = pages.read(out.read_text(encoding="utf-8"))
    files = [json.loads(file.read_text()) for file in (pruned, evaluated, surveyed)]
    assert page.embedded() == files
    assert page.all("h1")[0].text == "Shall we?"
    assert {*page.sections()} == {
        *("words", "numbers", "sizes", "differences", "layers", "samples", "measured"),
        *("reading", "sources"),
    }
    one, theirs, table = files
    rows = page.section("numbers").rows()
    assert len(rows) == 2 + len(table["rows"])  # dense, and the recipe that two files measured
    row = rows[f"magnitude, {100 * one['pruned']['sparsity_of_prunable']:.3g} %"]
    exact = [number for cell in row for number in cell.numbers()]
    assert exact[0] == one["pruned"]["quality"]["perplexity"]
    assert one["pruned"]["cost"]["parameters"] in exact
    assert theirs["protocols"]["embedded"]["agreement"]["divergence"]["value"] in exact
    assert rows["dense"][0].numbers()[0] == one["dense"]["quality"]["perplexity"]
    quotes = [quote.text for quote in page.section("samples").all("blockquote")]
    for sample in theirs["samples"]:
        assert " ".join(sample["pruned"].split()) in quotes


def test_what_is_there_is_not_replaced_unasked(
    good: Path, tmp_path: Path, run: Run, refused: Refused
) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    assert "is there already: name another file, or give --overwrite." in refused(
        *("report", good, "--out", out)
    )
    assert out.read_text() == "mine"
    code, _, err = run("report", good, "--out", out, "--overwrite")
    assert code == 0, err
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_it_never_replaces_a_file_that_it_is_made_of(good: Path, refused: Refused) -> None:
    before = good.read_text()
    said = refused("report", good, "--out", good, "--overwrite")
    assert "is one of the files that the report is made of" in said
    assert good.read_text() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be reported. It is not valid JSON (line 1"),
        (b"\xff\xfe", "cannot be read: it is no text. Check the path."),
        (b"[]", "cannot be reported. It holds no table of values"),
        (b'{"format": "prunescope-comparison/1"}', "Unknown format 'prunescope-comparison/1'."),
        (b'{"format": "prunescope-run/1"}', "cannot be reported. Its pruned is None"),
        (b'{"format": NaN}', "cannot be reported. It holds numbers, nesting or characters"),
        (b"[" * 200_000, "cannot be reported. It holds numbers, nesting or characters"),
    ],
)
def test_a_damaged_file_is_told_and_nothing_is_written(
    content: bytes, said: str, good: Path, tmp_path: Path, refused: Refused
) -> None:
    bad, out = tmp_path / "bad.json", tmp_path / "report.html"
    bad.write_bytes(content)
    told = refused("report", good, bad, "--out", out)
    assert told.startswith(str(bad))
    assert said in told
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["bad.json", "run.json"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path, refused: Refused) -> None:
    said = refused("report", tmp_path / "nowhere.json", "--out", tmp_path / "report.html")
    assert "nowhere.json cannot be read: No such file or directory. Check the path." in said


def test_a_folder_is_no_place_for_it(good: Path, tmp_path: Path, refused: Refused) -> None:
    assert "it is there already and no file" in refused("report", good, "--out", tmp_path)
