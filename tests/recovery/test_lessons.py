"""What is learned from: texts, rows of files and data sets, and the sentence each bad one gets."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from pruning_core.calibration import DATA_VARIABLE
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.protocol import PROTOCOLS
from pruning_core.progress import Cancelled
from pruning_core.recovery.instructions import MOST_ROWS, Exchange, read_file, read_hub
from pruning_core.recovery.lessons import Lessons, probe_windows, read_lessons
from pruning_core.recovery.settings import Settings
from tests.model import tiny_checkpoints

ALPACA = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "hello"},
    {"instruction": "Say nothing.", "input": "", "output": "  "},
]


def lessons_of(text: str, **changes: object) -> Lessons:
    return read_lessons(Settings(text=text, **changes), tiny_checkpoints.tokenizer())  # type: ignore[arg-type]


def write(path: Path, rows: object) -> Path:
    path.write_text(json.dumps(rows))
    return path


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
    return path


# --- texts ---------------------------------------------------------------------------------------


def test_a_corpus_is_cut_into_windows_of_which_every_token_is_learned() -> None:
    found = lessons_of("embedded", length=32, batch=4, steps=3)
    assert len(found.samples) == 12
    assert {(len(sample.ids), sample.learned) for sample in found.samples} == {(32, 1)}
    assert found.samples[0].predicted == 31


def test_a_text_file_gives_all_it_has_where_epochs_decide(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("one line\n" * 100)
    found = lessons_of(f"file:{path}", length=32)
    tokens = len(tiny_checkpoints.tokenizer()(path.read_text()).input_ids) + 1
    assert len(found.samples) == tokens // 32
    assert found.text.source == "file words.txt"


def test_rows_of_text_are_a_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "some words " * 20}] * 3)
    found = lessons_of(f"file:{path}", length=16)
    assert {sample.learned for sample in found.samples} == {1}
    assert len(found.text.documents) == 3


# --- exchanges -----------------------------------------------------------------------------------


def test_alpaca_rows_become_its_prompts(tmp_path: Path) -> None:
    rows = read_file(write(tmp_path / "alpaca.json", ALPACA))
    assert rows == read_file(write_lines(tmp_path / "alpaca.jsonl", [*ALPACA]))
    assert [row.answer for row in rows] == ["3", "hello"]
    assert rows[0].prompt.endswith("### Input:\n1 and 2\n\n### Response:\n")
    assert "paired with an input" in rows[0].prompt
    assert "paired" not in rows[1].prompt
    assert rows[1].prompt.endswith("### Instruction:\nGreet.\n\n### Response:\n")


@pytest.mark.parametrize("answer", ["response", "completion"])
def test_prompts_and_responses_are_taken_as_they_are(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path / "pairs.json", [{"prompt": "2+2=", answer: "4", "id": 7}])
    assert read_file(path) == (Exchange("2+2=", "4"),)


def test_of_an_exchange_the_answer_alone_is_learned(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.json", [{"prompt": "abc abc ", "response": "abcab"}])
    (sample,) = lessons_of(f"file:{path}", length=64).samples
    tokenizer = tiny_checkpoints.tokenizer()
    learned = sample.ids[sample.learned :].tolist()
    assert learned == [*tokenizer("abcab").input_ids, tokenizer.eos_token_id]
    assert tokenizer.decode(sample.ids[: sample.learned]) == "abc abc "


def test_a_tokenizer_s_opening_token_opens_an_exchange(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.json", [{"prompt": "ab", "response": "abc"}])
    (plain,) = lessons_of(f"file:{path}").samples
    tokenizer = tiny_checkpoints.tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    (opened,) = read_lessons(Settings(text=f"file:{path}"), tokenizer).samples
    assert opened.ids.tolist() == [tokenizer.bos_token_id, *plain.ids.tolist()]
    assert opened.learned == plain.learned + 1


def test_long_exchanges_are_cut_and_prompts_that_leave_no_room_left_out(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "response": "b " * 40}, {"prompt": "c " * 40, "response": "d"}]
    path = write(tmp_path / "pairs.json", rows)
    (sample,) = lessons_of(f"file:{path}", length=16).samples
    assert len(sample.ids) == 16
    path = write(tmp_path / "pairs.json", rows[1:])
    with pytest.raises(PrunescopeError, match="Every prompt .* fills the 16 tokens"):
        lessons_of(f"file:{path}", length=16)


def test_only_as_many_exchanges_as_are_needed_are_drawn(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} ", "response": "x"} for n in range(50)]
    path = write(tmp_path / "pairs.json", rows)
    drawn = [lessons_of(f"file:{path}", steps=2, batch=4, seed=seed) for seed in (0, 0, 1)]
    assert [len(found.samples) for found in drawn] == [8, 8, 8]
    ids = [[sample.ids.tolist() for sample in found.samples] for found in drawn]
    assert ids[0] == ids[1] != ids[2]
    assert len(drawn[0].text.documents) == 50


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", '{"prompt": "a", "response": "b"}', "must be a list"),
        ("a.json", '["a"]', "Row 1 of .* is not an object"),
        ("a.json", '[{"question": "a"}]', "Row 1 of .* has 'question': it needs 'instruction'"),
        ("a.json", '[{"prompt": "a", "response": 3}]', "Row 1 of .* no text in its column 'resp"),
        ("a.json", '[{"prompt": "a", "response": "b"}, {"text": "c"}]', "Row 2 of .* 'prompt'"),
        ("a.json", '[{"prompt": "a", "response": ""}]', "nothing to learn"),
        ("a.json", "[]", "nothing to learn"),
        ("a.jsonl", '{"text": "a"}\n{"text"', "Line 2 of .* not valid JSON"),
        ("a.jsonl", " ", "holds no text"),
    ],
)
def test_bad_files_get_a_sentence(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PrunescopeError, match=said):
        lessons_of(f"file:{path}")


def test_a_missing_file_and_an_unknown_text_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PrunescopeError, match="does not exist"):
        lessons_of(f"file:{tmp_path / 'none.jsonl'}")
    with pytest.raises(
        PrunescopeError, match=r"Unknown corpus 'imbedded'. Did you mean 'embedded'"
    ):
        lessons_of("imbedded")


# --- data sets -----------------------------------------------------------------------------------


def test_a_data_set_is_read_through_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "alpaca-tiny"
    folder.mkdir()
    write_lines(folder / "train.jsonl", [*ALPACA])
    found = lessons_of(f"hub:{folder}")
    assert len(found.samples) == 2
    assert found.text.source == "data set alpaca-tiny"
    assert found.text.documents[0].endswith("### Response:\n3")


def test_the_hub_is_asked_for_the_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*place: object, **how: object) -> list[dict[str, str]]:
        asked.append((place, how))
        return [{"prompt": "a", "response": "b"}] * (MOST_ROWS + 5)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read_hub("org/name:plain")
    assert asked == [(("org/name", "plain"), {"split": "train", "streaming": True})]
    assert len(rows) == MOST_ROWS


def test_a_data_set_that_cannot_be_had_gets_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(PrunescopeError, match=r"'org/name' can't be fetched.*no route.*embedded"):
        lessons_of("hub:org/name")


def test_reading_a_data_set_can_be_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def tick(*_told: object) -> None:
        raise Cancelled

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"text": "a"}])
    with pytest.raises(Cancelled):
        read_hub("org/name", tick)  # type: ignore[arg-type]


# --- the guard -----------------------------------------------------------------------------------


def test_the_probe_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    tokenizer = tiny_checkpoints.tokenizer()
    probe = PROTOCOLS["probe"]
    windows, leaked = probe_windows(probe, lessons_of("embedded", steps=1), tokenizer)
    assert windows.shape == (8, 256)
    assert windows.dtype == torch.int64
    assert not leaked


def test_a_probe_that_is_trained_on_is_refused_or_marked(tmp_path: Path) -> None:
    tokenizer = tiny_checkpoints.tokenizer()
    probe = PROTOCOLS["probe"]
    windows, _leaked = probe_windows(probe, lessons_of("embedded", steps=1), tokenizer)
    path = tmp_path / "stolen.txt"
    path.write_text(" ".join(tokenizer.batch_decode(windows)))
    stolen = lessons_of(f"file:{path}", steps=1)
    with pytest.raises(PrunescopeError, match="they overlap"):
        probe_windows(probe, stolen, tokenizer)
    assert probe_windows(probe, stolen, tokenizer, allow_leak=True)[1]
