"""``survey``: the rows of the table, the file that grows with it, and where it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning_core.calibration import Split, load_text
from pruning_core.commands.survey import FORMAT
from pruning_core.commands.survey_tables import BIAS, REPAIRS
from pruning_core.commands.survey_tables import METHODS as ROWS
from pruning_core.evaluation.quality import Quality
from pruning_core.importance.registry import able, estimators
from pruning_core.recipe import STRUCTURED, Recipe

QUICK = ("--windows", "2", "--length", "16", "--protocol", "probe", "--limit", "2")
FEW = ("--only", "wanda,flap", *QUICK)

JsonOf = Callable[..., dict[str, Any]]
Command = Callable[..., tuple[int, str, str]]


class Break:
    """Measures as the pipeline does, until so many models have been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int | None = None) -> None:
        from pruning_core import pipeline

        self.measured: list[str] = []
        self._after = after
        self._measure = pipeline.measure_windows
        monkeypatch.setattr(pipeline, "measure_windows", self)

    def __call__(self, model: object, windows: torch.Tensor, tick: object, what: str) -> Quality:
        if len(self.measured) == self._after:
            raise KeyboardInterrupt
        self.measured.append(what)
        return self._measure(model, windows, tick, what)


def labels(rows: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    return [(row["label"], row["pattern"], row["asked"]) for row in rows]


def test_the_table_has_every_method_at_the_sparsities_that_papers_report() -> None:
    weights = [row for row in ROWS if row.pattern != STRUCTURED]
    units = [row for row in ROWS if row.pattern == STRUCTURED]
    assert {(row.estimator, str(row.pattern), row.sparsity) for row in weights} == {
        (name, pattern, 0.5)
        for name in ("magnitude", "wanda", "sparsegpt", "ria", "dass")
        for pattern in ("unstructured", "4:8", "2:4")
    }
    methods = (
        *("magnitude l2", "wanda-sp", "flap", "flap + bias", "llm-pruner vector"),
        *("llm-pruner element1", "fine", "coarse", "mutual-information", "hybrid"),
    )
    assert [(row.sparsity, row.label) for row in units] == [
        (sparsity, name) for sparsity in (0.2, 0.5) for name in methods
    ]
    assert {row.label for row in units if row.repair == BIAS} == {"flap + bias"}
    for row in ROWS:
        able(row.estimator, row.pattern).settings(dict(row.settings))
    assert len(set(ROWS)) == len(ROWS)


def test_the_table_of_repairs_has_every_choice_before_and_after() -> None:
    pairs = {(row.estimator, row.settings, str(row.pattern), row.sparsity) for row in REPAIRS}
    for name, settings, pattern, sparsity in pairs:
        rows = [row for row in REPAIRS if (row.estimator, row.settings) == (name, settings)]
        here = [row for row in rows if (str(row.pattern), row.sparsity) == (pattern, sparsity)]
        assert [str(row.repair) for row in here] == ["none", "ridge"]
        able(name, here[0].pattern).settings(dict(settings))
    units = {"wanda-sp", "flap", "obs", "llm-pruner element1", "hybrid", "hybrid repaired"}
    for sparsity in (0.2, 0.5):
        assert units == {
            row.label
            for row in REPAIRS
            if row.pattern == STRUCTURED and row.sparsity == sparsity and not row.repair
        }
    assert {(name, pattern) for name, _, pattern, _ in pairs if pattern != "structured"} == {
        (name, pattern) for name in ("wanda", "sparsegpt") for pattern in ("unstructured", "2:4")
    }


def test_repairs_are_measured_and_the_gap_is_said(folder: Path, json_of: JsonOf) -> None:
    words = ("--table", "repair", "--only", "wanda-sp,wanda")
    report = json_of("survey", folder, *words, *QUICK)
    assert [row["recipe"]["repair"] for row in report["rows"]] == ["none", "ridge"] * 4
    sparsity = [row["sparsity_of_prunable"] for row in report["rows"]]
    assert sparsity[::2] == sparsity[1::2]
    said = [sentence for sentence in report["notes"] if sentence.startswith("Repair, ")]
    assert [sentence.partition(":")[0] for sentence in said] == [
        "Repair, structured at 50%",
        "Repair, structured at 20%",
        "Repair, unstructured at 50%",
        "Repair, 2",
    ]


def test_every_row_is_measured_as_its_recipe_says(folder: Path, json_of: JsonOf) -> None:
    quick = ",".join({row.estimator for row in ROWS} - {"hybrid"})
    report = json_of("survey", folder, "--only", quick, *QUICK)
    assert (report["format"], report["complete"], report["leaked"]) == (FORMAT, True, False)
    rows = report["rows"]
    wanted = [row for row in ROWS if row.estimator != "hybrid"]
    assert labels(rows) == [(row.label, str(row.pattern), row.sparsity) for row in wanted]
    for row in rows:
        # A tiny MLP steps by 1/64, and n:m keeps to its blocks.
        assert row["sparsity_of_prunable"] == pytest.approx(row["asked"], abs=1 / 64)
        assert row["sparsity_of_all"] < row["sparsity_of_linears"]
        if row["estimator"] == "dass":
            assert row["sparsity_of_linears"] < row["sparsity_of_prunable"]
        else:
            assert row["sparsity_of_linears"] == pytest.approx(row["sparsity_of_prunable"])
        assert row["quality"]["tokens"] == report["dense"]["quality"]["tokens"]
        seconds = row["seconds"]
        assert seconds["choosing"] == seconds.get("scoring", 0) + seconds["planning"]
        assert seconds["measuring"] > 0
        assert row["peak_memory_bytes"]["main"] > 1e6
        assert Recipe.from_dict(row["recipe"]).digest == row["digest"]
    assert len({row["digest"] for row in rows}) == len(rows)


def test_a_row_is_what_prune_measures(folder: Path, json_of: JsonOf) -> None:
    report = json_of("survey", folder, *FEW)
    found = {(row["label"], row["pattern"], row["asked"]): row for row in report["rows"]}
    for key, words in (
        (("wanda", "2:4", 0.5), ("--estimator", "wanda", "--pattern", "2:4")),
        (
            ("flap + bias", "structured", 0.2),
            ("--estimator", "flap", "--repair", "bias", "--sparsity", "0.2"),
        ),
    ):
        alone = json_of("prune", folder, *words, *QUICK)
        assert found[key]["digest"] == alone["digest"]
        assert found[key]["quality"] == alone["pruned"]["quality"]
        assert report["dense"] == alone["dense"]
        assert report["protocol"] == alone["protocol"]


def test_the_table_is_aligned_and_ends_in_notes(folder: Path, tmp_path: Path, run: Command) -> None:
    file = tmp_path / "survey.json"
    code, text, err = run("survey", folder, "--only", "dass,magnitude", *QUICK, "--json", file)
    assert code == 0, err
    report = json.loads(file.read_text())
    table, notes = text.strip("\n").split("\n\n")
    _heading, names, dense, *rows = table.splitlines()
    assert len({len(row) for row in (names, *rows)}) == 1
    assert dense.startswith("dense")
    assert names.index("measuring") + len("measuring") == len(dense)
    for row, line in zip(report["rows"], rows, strict=True):
        assert line.startswith(row["label"])
        assert f" {row['quality']['perplexity']:.3f} " in line
        for sparsity in ("prunable", "linears", "all"):
            assert f" {row[f'sparsity_of_{sparsity}']:.2%} " in line
    assert max(map(len, notes.splitlines())) <= 100
    assert "dass prunes MLPs only: its 50 % is of their weights" in notes
    assert "hybrid" not in notes
    absent = {e.name for e in estimators()} - {row.estimator for row in ROWS}
    assert "saap" in absent
    assert all(name in notes.rpartition("Not in the survey: ")[2] for name in absent)


def test_rows_are_told_and_kept_as_they_come(
    folder: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "survey.json"
    Break(monkeypatch, after=3)
    code, text, err = run("survey", folder, *FEW, "--json", file)
    assert code == 130
    assert err.endswith("prunescope: stopped.\n")
    left = json.loads(file.read_text())
    assert left["complete"] is False
    assert labels(left["rows"]) == [("wanda", "unstructured", 0.5), ("wanda", "4:8", 0.5)]
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["dense", "wanda", "wanda"]
    assert [path.name for path in tmp_path.iterdir()] == ["survey.json"]


def test_a_survey_that_was_broken_off_goes_on_where_it_was(
    folder: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, file = tmp_path / "whole.json", tmp_path / "survey.json"
    assert run("survey", folder, *FEW, "--json", whole)[0] == 0
    with monkeypatch.context() as patched:
        Break(patched, after=5)
        assert run("survey", folder, *FEW, "--json", file)[0] == 130
    left = json.loads(file.read_text())
    went_on = Break(monkeypatch)
    code, text, err = run("survey", folder, *FEW, "--json", file)
    assert code == 0, err
    assert f"Rows that {file} holds and that are not measured again: 4." in err
    assert went_on.measured == ["dense", "flap", "flap", "flap"]
    report, expected = json.loads(file.read_text()), json.loads(whole.read_text())
    assert report["complete"] is True
    assert report["rows"][:4] == left["rows"]
    assert labels(report["rows"]) == labels(expected["rows"])
    for row, other in zip(report["rows"], expected["rows"], strict=True):
        assert row["digest"] == other["digest"]
        assert row["quality"] == other["quality"]
    assert report["dense"] == expected["dense"]
    assert report["notes"] == expected["notes"]
    for row in report["rows"]:
        assert f" {row['quality']['perplexity']:.3f} " in text


def test_a_whole_survey_is_printed_from_its_file(
    folder: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "survey.json"
    words = ("survey", folder, *FEW, "--json", file)
    _, first, _ = run(*words)
    before = file.read_text()
    nothing = Break(monkeypatch)
    code, again, err = run(*words)
    assert code == 0, err
    assert nothing.measured == []
    assert again == first
    assert file.read_text() == before


def test_other_methods_join_those_in_the_file(
    folder: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "survey.json"
    words = ("survey", folder, *QUICK, "--json", file, "--only")
    assert run(*words, "magnitude")[0] == 0
    joined = Break(monkeypatch)
    code, text, err = run(*words, "dass,magnitude")
    assert code == 0, err
    assert joined.measured == ["dense", "dass", "dass", "dass"]
    report = json.loads(file.read_text())
    assert {row["estimator"] for row in report["rows"]} == {"magnitude", "dass"}
    assert report["complete"] is True
    assert "dass prunes MLPs only" in text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--seed", "1"), "calibration"),
        (("--limit", "1"), "protocol"),
        (("--dtype", "float16"), "dtype"),
    ],
)
def test_a_file_of_another_survey_is_refused_and_left_alone(
    folder: Path,
    tmp_path: Path,
    run: Command,
    refused: Callable[..., str],
    words: tuple[str, ...],
    named: str,
) -> None:
    file = tmp_path / "survey.json"
    told = ("survey", folder, "--only", "dass", *QUICK, "--dtype", "float32", "--json", file)
    assert run(*told)[0] == 0
    before = file.read_text()
    assert f"holds another survey or something else: it differs in {named}." in refused(
        *told, *words
    )
    assert file.read_text() == before


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b'{"format": "x"}'])
def test_a_file_that_is_no_survey_is_refused_and_left_alone(
    folder: Path, tmp_path: Path, refused: Callable[..., str], content: bytes
) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    assert "it differs in format, model" in refused("survey", folder, *FEW, "--json", file)
    assert file.read_bytes() == content


def test_a_file_that_cannot_be_read_is_refused(
    folder: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "survey.json"
    file.touch()
    read = Path.read_text

    def closed(path: Path, *args: Any, **options: Any) -> str:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", closed)
    said = refused("survey", folder, *FEW, "--json", file)
    assert "survey.json cannot be read: Permission denied" in said


def test_measuring_on_calibration_text_is_refused_or_marked(
    folder: Path, tmp_path: Path, refused: Callable[..., str], run: Command
) -> None:
    leak, file = tmp_path / "leak.txt", tmp_path / "survey.json"
    # The tokenizer of the tiny model drops line ends, and with them what lies between two words.
    leak.write_text(load_text("embedded", Split.MEASUREMENT).joined.replace("\n", ""))
    words = ("survey", folder, *QUICK, "--corpus", f"file:{leak}", "--json", file, "--only")
    assert "looks better than it is" in refused(*words, "dass")
    assert not file.exists()
    for names, leaked in (("magnitude", False), ("dass", True), ("dass,magnitude", True)):
        code, text, err = run(*words, names, "--allow-leak")
        assert code == 0, err
        assert json.loads(file.read_text())["leaked"] is leaked
        assert ("LEAK" in text) is leaked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "wanda,wandasp"), "Did you mean 'wanda-sp'?"),
        (("--only", "saap"), "Unknown estimator of the survey 'saap'"),
        (("--only", ""), "Unknown estimator of the survey ''"),
        (("--protocol", "wikitext"), "Did you mean 'wikitext2'?"),
        (("--seed", "-1"), "Calibration seed is -1"),
    ],
)
def test_a_bad_setting_is_refused_before_the_model_is_loaded(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("pruning_core.model.loading.load", None)
    assert said in refused("survey", "no-such-model", *words)
