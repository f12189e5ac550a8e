"""The corpora: what each source hands over, and the sentence each bad input gets."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import datasets
import pytest

from pruning_core.calibration import CORPORA, DATA_VARIABLE, Split, Text, embedded, load_text
from pruning_core.calibration.wikitext import articles, rows
from pruning_core.errors import PrunescopeError
from pruning_core.progress import Cancelled

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"

SERVED = [(name, split) for name, corpus in CORPORA.items() for split in corpus.splits]


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty corpus folder, in use."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def shared_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real corpora beside the project, in use."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder of corpora at ../shared/data")
    monkeypatch.setenv(DATA_VARIABLE, str(SHARED_DATA))
    return SHARED_DATA


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- names ---------------------------------------------------------------------------------------


def test_an_unknown_corpus_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PrunescopeError, match=r"'wikitext'.*Did you mean 'wikitext2'.*file:PATH"):
        load_text("wikitext", Split.CALIBRATION)


def test_a_corpus_without_a_measurement_text_says_what_to_use() -> None:
    with pytest.raises(PrunescopeError, match=r"Wikipedia has no measurement text.*embedded"):
        load_text("wikipedia", Split.MEASUREMENT)


def test_text_has_one_digest_for_one_joined_text() -> None:
    text = Text("x", Split.CALIBRATION, ("a", "b"), " ", "here")
    assert text.joined == "a b"
    assert text.sha256 == Text("y", Split.MEASUREMENT, ("a b",), "\n", "there").sha256
    assert text.sha256 != Text("x", Split.CALIBRATION, ("a", "b"), "\n", "here").sha256


# --- embedded ------------------------------------------------------------------------------------


def test_the_embedded_halves_are_both_of_use() -> None:
    sizes = {split: len(load_text("embedded", split).joined) for split in Split}
    assert min(sizes.values()) > 0.4 * sum(sizes.values())
    assert sum(sizes.values()) > 300_000


def test_every_topic_keeps_its_half() -> None:
    # Fixed by the names: a run made with one version of Python compares with one of the next.
    halves = {topic: embedded.half_of(topic) for topic in ("compound", "specialnames", "types")}
    assert halves == {
        "compound": Split.MEASUREMENT,
        "specialnames": Split.MEASUREMENT,
        "types": Split.CALIBRATION,
    }


def test_no_paragraph_of_the_embedded_text_comes_twice() -> None:
    paragraphs = Counter(
        " ".join(paragraph.split())
        for split in Split
        for document in load_text("embedded", split).documents
        for paragraph in document.split("\n\n")
    )
    assert [words for words, times in paragraphs.items() if times > 1] == []


def test_the_longest_topic_keeps_a_repeated_paragraph_and_mere_excerpts_go() -> None:
    topics = {
        "a-for": "The for loop\n\nruns over\n   items of a list",
        "collection": "All loops\n\nruns over items\nof a list\n\nand more of its own",
    }
    kept = embedded.without_repetitions(topics)
    assert kept == {"collection": topics["collection"]}


def test_a_python_without_its_topics_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(PrunescopeError, match="without its help topics.*file:PATH"):
        load_text("embedded", Split.CALIBRATION)


# --- the user's file -----------------------------------------------------------------------------


def test_a_file_is_one_document_for_both_splits(tmp_path: Path) -> None:
    path = put(tmp_path / "mine.txt", "\ufeffGrüße\r\nzweite Zeile\n")
    for split in Split:
        text = load_text(f"file:{path}", split)
        assert text.documents == ("Grüße\nzweite Zeile\n",)
        assert (text.split, text.source) == (split, "file mine.txt")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "holds no text"),
        (" \n\t\n", "holds no text"),
        (b"caf\xe9 au lait", r"not UTF-8 text \(byte 3 "),
    ],
)
def test_a_file_without_readable_text_is_refused(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    path = put(tmp_path / "mine.txt", content)
    with pytest.raises(PrunescopeError, match=complaint) as raised:
        load_text(f"file:{path}", Split.CALIBRATION)
    assert str(path) in str(raised.value)


def test_a_path_that_leads_to_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrunescopeError, match="does not exist"):
        load_text(f"file:{tmp_path / 'absent.txt'}", Split.CALIBRATION)
    with pytest.raises(PrunescopeError, match="is not a file"):
        load_text(f"file:{tmp_path}", Split.CALIBRATION)
    with pytest.raises(PrunescopeError, match="can't be read: File name too long"):
        load_text("file:" + "x" * 5000, Split.CALIBRATION)
    with pytest.raises(PrunescopeError, match="names no file"):
        load_text("file: ", Split.CALIBRATION)


# --- the local folder ----------------------------------------------------------------------------


def test_wikitext_rows_are_those_of_the_hub() -> None:
    # Only the newline ends a line: the other separators Unicode knows stand inside articles.
    raw = " \n = A title = \n \n It is\u2028 5 = 5 . \n \n = = Early life = = \n"
    assert rows(raw) == (
        "",
        " = A title = \n",
        "",
        " It is\u2028 5 = 5 . \n",
        "",
        " = = Early life = = \n",
    )


def test_wikitext_articles_begin_at_titles() -> None:
    raw = " \n = One = \n \n text \n = = Part = = \n text \n \n = Two = \n more \n"
    assert articles(rows(raw)) == (
        " = One = \n text \n = = Part = = \n text \n",
        " = Two = \n more \n",
    )


def test_wikitext2_test_is_the_published_text(shared_data: Path) -> None:
    text = load_text("wikitext2", Split.MEASUREMENT)
    assert len(text.documents) == 4358
    assert text.joiner == "\n\n"
    # The text of 287,644 GPT-2 tokens, the count that evaluation logs of GPT-2 show.
    assert text.sha256 == "696cca6b65a171b0a358a4be6732cdfdf2dd6164a32e20fd70e3c13fc4dfae83"


@pytest.mark.parametrize(
    ("name", "split", "documents"),
    [
        ("wikitext2", Split.CALIBRATION, 60),
        ("c4", Split.CALIBRATION, 1480),
        ("c4", Split.MEASUREMENT, 118),
        ("wikipedia", Split.CALIBRATION, 2349),
    ],
)
def test_local_corpora_come_whole(
    shared_data: Path, name: str, split: Split, documents: int
) -> None:
    text = load_text(name, split)
    assert len(text.documents) == documents
    assert all(document.strip() for document in text.documents)
    assert "<doc " not in text.joined
    assert text.source.startswith("local ")
    assert ("<unk>" in text.joined) == ("<unk>" in text.source)


def test_treebank_sentences_lose_the_spaces_about_them(folder: Path) -> None:
    put(folder / "ptb/ptb.test.txt", " no it was n't black monday \n but while \n\n")
    text = load_text("ptb", Split.MEASUREMENT)
    assert text.joined == "no it was n't black monday but while"
    put(folder / "ptb/ptb.valid.txt", " one <unk> \n two \n")
    assert load_text("ptb-validation", Split.MEASUREMENT).joined == "one <unk>\n\ntwo"


def test_a_missing_local_file_is_named_and_the_hub_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    for name, split in SERVED:
        if name != "embedded":
            with pytest.raises(PrunescopeError, match=rf"{folder}/.*does not exist.*unset"):
                load_text(name, split)


def test_no_local_file_serves_two_splits(folder: Path) -> None:
    named = []
    for name, split in SERVED:
        if name != "embedded":
            with pytest.raises(PrunescopeError) as raised:
                load_text(name, split)
            named.append(str(raised.value).split("'")[3])
    assert len(set(named)) == len(named) == len(SERVED) - 2


def test_a_folder_that_does_not_exist_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(PrunescopeError, match=rf"{DATA_VARIABLE} names .*absent.* not a folder"):
        load_text("c4", Split.CALIBRATION)


@pytest.mark.parametrize("line", ["{", '{"words": 1}', '["text"]', "3"])
def test_a_broken_document_is_named_by_its_line(folder: Path, line: str) -> None:
    put(folder / "calibration/c4_short.jsonl", f'{{"text": "good"}}\n\n{line}\n')
    with pytest.raises(PrunescopeError, match="Line 3 of .*key 'text'"):
        load_text("c4", Split.CALIBRATION)


def test_wikipedia_without_article_marks_is_refused(folder: Path) -> None:
    put(folder / "calibration/wikipedia.txt", "Just text.\n")
    with pytest.raises(PrunescopeError, match="has no articles"):
        load_text("wikipedia", Split.CALIBRATION)


def test_wikipedia_marks_are_taken_off(folder: Path) -> None:
    put(
        folder / "calibration/wikipedia.txt",
        '<doc id="1" title="A > B">\nA > B\n\nText.\n\n</doc>\n'
        '<doc id="2" title="Empty">\n\n</doc>\n'
        '<doc id="3" title="C">\nC\n</doc>\n',
    )
    assert load_text("wikipedia", Split.CALIBRATION).documents == ("A > B\n\nText.", "C")


# --- the hub -------------------------------------------------------------------------------------

WIKITEXT = ("Salesforce/wikitext", "wikitext-2-raw-v1")
C4_TRAIN = "en/c4-train.00000-of-01024.json.gz"
C4_VALIDATION = "en/c4-validation.00000-of-00008.json.gz"

PTB = "ptb-text-only/ptb_text_only"
CONVERTED = "refs/convert/parquet"

ASKED = {
    **{
        (name, Split.MEASUREMENT): (
            PTB,
            None,
            {split: f"penn_treebank/{split}/0000.parquet"},
            split,
            False,
        )
        for name, split in (("ptb", "test"), ("ptb-validation", "validation"))
    },
    ("wikitext2", Split.CALIBRATION): (*WIKITEXT, None, "train", False),
    ("wikitext2", Split.MEASUREMENT): (*WIKITEXT, None, "test", False),
    ("c4", Split.CALIBRATION): ("allenai/c4", None, {"train": C4_TRAIN}, "train", True),
    ("c4", Split.MEASUREMENT): (
        "allenai/c4",
        None,
        {"validation": C4_VALIDATION},
        "validation",
        True,
    ),
    ("wikipedia", Split.CALIBRATION): (
        "wikimedia/wikipedia",
        "20231101.en",
        None,
        "train",
        True,
    ),
}


@pytest.mark.usefixtures("no_folder")
@pytest.mark.parametrize(("name", "split"), ASKED)
def test_the_hub_is_asked_for_the_right_split(
    monkeypatch: pytest.MonkeyPatch, name: str, split: Split
) -> None:
    asked = []

    def load_dataset(path, config, *, data_files, split, streaming, revision):
        asked.append((path, config, data_files, split, streaming))
        assert revision == (CONVERTED if path == PTB else None)
        column = "sentence" if path == PTB else "text"
        return [{column: " = A = \n"}, {column: ""}, {column: " text \n"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    text = load_text(name, split)
    assert asked == [ASKED[name, split]]
    assert text.source.startswith(f"hub {ASKED[name, split][0]}")
    if (name, split) == ("wikitext2", Split.CALIBRATION):
        assert text.documents == (" = A = \n text \n",)
    else:
        assert text.documents == (" = A = \n", "", " text \n")


@pytest.mark.usefixtures("no_folder")
def test_a_big_corpus_is_streamed_through_datasets_and_capped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shard = tmp_path / "shard.json.gz"
    with gzip.open(shard, "wt") as file:
        file.writelines(json.dumps({"text": f"page {n}"}) + "\n" for n in range(1_200))
    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda _path, _config, *, data_files, split, streaming, revision: real(
            "json", data_files={split: str(shard)}, split=split, streaming=streaming
        ),
    )
    ticks = []
    text = load_text("c4", Split.MEASUREMENT, lambda *step: ticks.append(step))
    assert text.documents == tuple(f"page {n}" for n in range(1_100))
    assert text.joined.startswith("page 0 page 1 ")
    assert ("fetching text", 1_000, 1_100, "c4") in ticks


@pytest.mark.usefixtures("no_folder")
@pytest.mark.parametrize("error", [ConnectionError, RuntimeError, FileNotFoundError])
def test_no_network_gets_a_cure(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise error("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(PrunescopeError, match=r"Couldn't reach.*'embedded'.*PRUNESCOPE_DATA"):
        load_text("c4", Split.CALIBRATION)


@pytest.mark.usefixtures("no_folder")
def test_a_connection_lost_on_the_way_gets_the_same_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream():
        yield {"text": "first"}
        raise TimeoutError("read timed out")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream())
    with pytest.raises(PrunescopeError, match=r"read timed out.*'embedded'"):
        load_text("wikipedia", Split.CALIBRATION)


@pytest.mark.usefixtures("no_folder")
def test_fetching_can_be_called_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def tick(stage: str, done: int, total: int, note: str = "") -> None:
        if done >= 200:
            raise Cancelled

    taken = []

    def stream():
        for number in range(5_000):
            taken.append(number)
            yield {"text": "page"}

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream())
    with pytest.raises(Cancelled):
        load_text("c4", Split.CALIBRATION, tick)
    assert len(taken) == 201
