"""The protocols: windows laid by hand, and numbers against plain transformers code."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GemmaTokenizer, PreTrainedTokenizerFast

from pruning_core.calibration import Split, Text, load_text
from pruning_core.calibration.windows import Bos, sliding_spans
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.perplexity import (
    check_length,
    check_numbers,
    measure_spans,
)
from pruning_core.evaluation.protocol import PROTOCOLS, SLIDING, Protocol, any_protocol
from pruning_core.evaluation.quality import Quality, WindowQuality
from tests.model import tiny_checkpoints

TOKENIZER = tiny_checkpoints.tokenizer()

BOS = TOKENIZER.bos_token_id

ALL = PROTOCOLS | SLIDING


def of(letters: str) -> Text:
    return Text("letters", Split.MEASUREMENT, (letters,), "", "test")


def ids(letters: str) -> list[int]:
    return TOKENIZER(letters, add_special_tokens=False).input_ids


def laid(letters: str, **how: Any) -> list[tuple[list[int], int]]:
    spans = sliding_spans(of(letters), TOKENIZER, **how)
    return [(span.ids.tolist(), span.scored) for span in spans]


def test_sliding_windows_by_hand() -> None:
    # Ten tokens, windows of 4 that start every 2: each token but the first is scored once.
    assert laid("defghijkly", length=4, stride=2) == [
        (ids("defg"), 3),
        (ids("fghi"), 2),
        (ids("hijk"), 2),
        (ids("jkly"), 2),
    ]


def test_the_last_window_is_shorter_and_no_token_is_dropped() -> None:
    assert laid("defghij", length=4, stride=2)[-1] == (ids("hij"), 1)
    assert laid("defghij", length=4, stride=3) == [(ids("defg"), 3), (ids("ghij"), 3)]
    assert laid("defghijk", length=4, stride=4) == [(ids("defg"), 3), (ids("hijk"), 3)]


def test_a_begin_of_text_token_counts_towards_the_window_and_lets_the_first_token_be_scored() -> (
    None
):
    assert laid("defghij", length=4, stride=2, bos=True) == [
        ([BOS, *ids("def")], 3),
        ([BOS, *ids("fgh")], 2),
        ([BOS, *ids("hij")], 2),
    ]


def test_a_limit_takes_the_first_windows() -> None:
    assert laid("defghijkly", length=4, stride=2, limit=2) == [(ids("defg"), 3), (ids("fghi"), 2)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"length": 4, "stride": 0}, "stride is 0"),
        ({"length": 4, "stride": 5}, "from 1 to 4"),
        ({"length": 4, "stride": 4, "bos": True}, "from 1 to 3"),
        ({"length": 99, "stride": 4}, "fills no window of 99"),
        ({"length": 1, "stride": 1}, "must be 2 or more"),
    ],
)
def test_what_cannot_be_laid_gets_a_sentence(how: dict[str, Any], said: str) -> None:
    with pytest.raises(PrunescopeError, match=said):
        sliding_spans(of("defghijkly"), TOKENIZER, **how)


def test_the_family_decides_where_the_begin_of_text_token_stands() -> None:
    gemma = GemmaTokenizer(vocab={"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}, merges=[])
    assert Bos.FAMILY.resolved(gemma) is Bos.EVERY
    assert Bos.FAMILY.resolved(TOKENIZER) is Bos.ONCE
    assert Bos.ONCE.resolved(gemma) is Bos.ONCE
    assert Bos.EVERY.resolved(TOKENIZER) is Bos.EVERY
    spans = Protocol("x", "x", "x", 4).spans(of("<unk>" * 7), gemma)
    assert [span.ids.tolist() for span in spans] == [[2, 3, 3, 3], [2, 3, 3, 3]]


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Small corpora laid out as PRUNESCOPE_DATA is; returns each as one string, joined by hand."""
    draw = torch.Generator().manual_seed(0)

    def words(count: int) -> str:
        codes = torch.randint(ord("a"), ord("z"), (count, 5), generator=draw)
        return " ".join("".join(map(chr, row)) for row in codes.tolist())

    articles = [f" = Title {number} = " for number in range(3)]
    lines = [line for title in articles for line in (" ", title, " ", f" {words(300)} . ", " ")]
    pages = [words(200) for _ in range(5)]
    test, validation = ([words(20) for _ in range(count)] for count in (45, 6))
    for name, text in (
        ("wikitext2/wiki.test.raw", "\n".join(lines) + "\n"),
        ("calibration/c4_pages.txt", "\n".join(pages)),
        ("ptb/ptb.test.txt", "".join(f" {sentence} \n" for sentence in test)),
        ("ptb/ptb.valid.txt", "".join(f" {sentence} \n" for sentence in validation)),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PRUNESCOPE_DATA", str(tmp_path))
    rows = [f"{line}\n" if line.strip() else "" for line in lines]
    embedded = load_text("embedded", Split.MEASUREMENT)
    return {
        "wikitext2": "\n\n".join(rows),
        "c4": " ".join(pages),
        "ptb": " ".join(test),
        "ptb-validation": "\n\n".join(validation),
        "embedded": "\n\n".join(embedded.documents),
    }


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("bos", [Bos.ONCE, Bos.EVERY])
def test_perplexity_equals_plain_transformers_code(
    name: str, bos: Bos, corpora: dict[str, str]
) -> None:
    model = tiny_checkpoints.model(max_position_embeddings=2048)
    # All windows, but for the embedded text, which is long: its first ones.
    known = any_protocol(name)
    protocol = replace(known, bos=bos, limit=known.limit or (6 if "embedded" in name else None))
    text = load_text(protocol.corpus, Split.MEASUREMENT)
    quality = measure_spans(model, protocol.spans(text, TOKENIZER))

    front = [BOS] if bos is Bos.EVERY else []
    tokens = TOKENIZER(corpora[protocol.corpus], add_special_tokens=not front).input_ids
    room, losses, windows, seen = protocol.window - len(front), [], 0, 0
    for start in range(0, len(tokens), protocol.stride or room):
        window = tokens[start : start + room]
        if protocol.stride is None and len(window) < room:
            break
        fresh = start + len(window) - seen
        seen = start + len(window)
        read = torch.tensor([front + window])
        labels = read.clone()
        labels[:, : len(labels[0]) - fresh] = -100
        with torch.no_grad():
            loss = model(input_ids=read, labels=labels).loss.item()
        scored = min(fresh, read.shape[1] - 1)
        losses += [loss] * scored
        windows += 1
        if windows == protocol.limit or seen == len(tokens):
            break
    assert quality.perplexity == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
    assert (len(quality.windows), quality.tokens) == (windows, len(losses))
    assert windows >= 2


def test_every_protocol_says_what_it_is() -> None:
    for name, protocol in ALL.items():
        assert protocol.name == name
        assert str(protocol.window) in protocol.title or protocol.limit
        json.dumps(vars(protocol))
    with pytest.raises(PrunescopeError, match="Did you mean 'wikitext2-sliding'"):
        any_protocol("wikitext2-slidin")


def test_a_window_longer_than_the_model_is_refused() -> None:
    model = tiny_checkpoints.model()
    check_length(model, 64)
    with pytest.raises(PrunescopeError, match="it has 64 positions"):
        check_length(model, 65)


def test_a_model_of_nan_is_told_by_window() -> None:
    good, bad = WindowQuality(1.0, 1, 2), WindowQuality(math.nan, 0, 2)
    check_numbers(Quality((good, WindowQuality(math.inf, 0, 2))), "dense")
    with pytest.raises(PrunescopeError, match=r"NaN in 2 of 3 windows, the first of them window 1"):
        check_numbers(Quality((good, bad, bad)), "dense")


def test_the_tokenizer_is_one_that_counts_letters() -> None:
    assert isinstance(TOKENIZER, PreTrainedTokenizerFast)
    assert len(ids("defghijkly")) == 10
