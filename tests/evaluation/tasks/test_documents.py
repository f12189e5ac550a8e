"""The rows of the tasks: read from local files, and refused in words where those are broken."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.accuracy import select
from pruning_core.evaluation.tasks.definitions import TASKS
from pruning_core.evaluation.tasks.documents import local_files, read_documents

HELLASWAG = {
    "activity_label": "Baking",
    "ctx_a": "A man bakes.",
    "ctx_b": "he",
    "endings": ["eats [title] it.", "sleeps.", "sings.", "goes."],
    "label": 2,
}


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes | str], Path]:
    """Write a file of the tasks into a folder that PRUNESCOPE_DATA names."""
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))

    def put(name: str, content: bytes | str) -> Path:
        path = tmp_path / "tasks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refusal(name: str) -> str:
    with pytest.raises(PrunescopeError) as caught:
        select(TASKS[name])
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


def test_a_compressed_file_gives_its_items(put: Callable[..., Path]) -> None:
    put("hellaswag/hellaswag_val.jsonl.gz", gzip.compress(lines(HELLASWAG).encode()))
    selection = select(TASKS["hellaswag"])
    item = selection.items[0]
    assert item.gold == 2
    assert item.requests[0] == ("Baking: A man bakes. He", " eats. it.")
    assert len(selection.documents.sha256) == 64
    assert selection.documents.source == "local tasks/hellaswag/hellaswag_val.jsonl.gz"


def test_boolq_asks_for_yes_and_no(put: Callable[..., Path]) -> None:
    put("boolq/dev.jsonl", lines({"question": "is it", "passage": "It is.", "answer": True}))
    item = select(TASKS["boolq"]).items[0]
    asked = "It is.\nQuestion: is it?\nAnswer:"
    assert item.requests == ((asked, " no"), (asked, " yes"))
    assert item.gold == 1


def test_a_missing_file_is_named(put: Callable[..., Path]) -> None:
    put("boolq/other.jsonl", "{}")
    assert "boolq/dev.jsonl' does not exist" in refusal("boolq")


@pytest.mark.parametrize("cut", [5, 40, 80])
def test_half_a_compressed_file_is_damaged(cut: int, put: Callable[..., Path]) -> None:
    whole = gzip.compress(lines(*[HELLASWAG] * 30).encode())
    put("hellaswag/hellaswag_val.jsonl.gz", whole[: len(whole) * cut // 100])
    assert "is damaged, or its download broke off" in refusal("hellaswag")


def test_a_page_in_place_of_a_compressed_file_is_damaged(put: Callable[..., Path]) -> None:
    put("hellaswag/hellaswag_val.jsonl.gz", "<html>not found</html>")
    assert "is damaged" in refusal("hellaswag")


def test_half_a_line_is_named_by_its_number(put: Callable[..., Path]) -> None:
    rows = lines({"question": "a", "passage": "b", "answer": True}) * 2
    put("boolq/dev.jsonl", rows[:-20])
    assert "Line 2 of" in refusal("boolq")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_has_no_rows(content: str, put: Callable[..., Path]) -> None:
    put("boolq/dev.jsonl", content)
    assert "has no rows" in refusal("boolq")


@pytest.mark.parametrize("row", [[1, 2], {"question": "a"}, "text"])
def test_rows_of_another_layout_are_refused(row: Any, put: Callable[..., Path]) -> None:
    put("boolq/dev.jsonl", json.dumps(row))
    assert "whole copy" in refusal("boolq")


def test_bytes_that_are_no_text_are_damaged(put: Callable[..., Path]) -> None:
    put("boolq/dev.jsonl", b"\xff\xfe\x00")
    assert "is damaged" in refusal("boolq")


def test_labels_that_do_not_fit_the_rows_are_refused(put: Callable[..., Path]) -> None:
    put("piqa/valid.jsonl", lines({"goal": "g", "sol1": "a", "sol2": "b"}))
    put("piqa/valid-labels.lst", "0\n1\n")
    assert "has 1 rows and" in refusal("piqa")


@pytest.mark.parametrize("label", ["7", "-1", "x"])
def test_a_label_that_names_no_answer_is_refused(label: str, put: Callable[..., Path]) -> None:
    put("piqa/valid.jsonl", lines({"goal": "g", "sol1": "a", "sol2": "b"}))
    put("piqa/valid-labels.lst", label)
    assert "whole copy" in refusal("piqa")


def test_an_answer_key_that_names_no_choice_is_refused(put: Callable[..., Path]) -> None:
    choices = [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]
    row = {"question": {"stem": "q", "choices": choices}, "answerKey": "E"}
    put("arc/ARC-Easy-Test.jsonl", lines(row))
    assert "Row 0 of ARC-easy" in refusal("arc_easy")
    put("arc/ARC-Easy-Test.jsonl", lines(row | {"answerKey": "B"}))
    assert select(TASKS["arc_easy"]).items[0].gold == 1


def test_equal_rows_have_equal_digests(put: Callable[..., Path]) -> None:
    row = {"question": "a", "passage": "b", "answer": True}
    put("boolq/dev.jsonl", lines(row))
    first = read_documents(TASKS["boolq"]).sha256
    put("boolq/dev.jsonl", json.dumps(row, indent=None) + "\n\n")
    assert read_documents(TASKS["boolq"]).sha256 == first
    put("boolq/dev.jsonl", lines(row | {"answer": False}))
    assert read_documents(TASKS["boolq"]).sha256 != first


def test_last_words_stand_in_their_passage_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wikitext2" / "wiki.test.raw"
    path.parent.mkdir()
    path.write_text(" The river was long . All went to the river . Then came night . The end .\n")
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    selection = select(TASKS["last_word"])
    assert [item.requests for item in selection.items.values()] == [
        (("The river was long . All went to the", " river"),)
    ]


def test_a_text_without_passages_is_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wikitext2" / "wiki.test.raw"
    path.parent.mkdir()
    path.write_text(" Nothing here comes twice .\n")
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    assert local_files(TASKS["last_word"], tmp_path) == (path,)
    with pytest.raises(PrunescopeError, match="has no items"):
        select(TASKS["last_word"])


def test_the_files_of_a_task_are_named() -> None:
    assert local_files(TASKS["piqa"], Path("data")) == (
        Path("data/tasks/piqa/valid.jsonl"),
        Path("data/tasks/piqa/valid-labels.lst"),
    )


def test_without_a_folder_the_hub_is_asked_and_its_absence_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PRUNESCOPE_DATA", raising=False)
    asked: list[tuple[Any, ...]] = []

    def unreachable(*place: Any, **options: Any) -> None:
        asked.append((*place, options["split"]))
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    assert "can't be fetched from the hub" in refusal("arc_challenge")
    assert asked == [("allenai/ai2_arc", "ARC-Challenge", "test")]
