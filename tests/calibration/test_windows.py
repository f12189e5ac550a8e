"""The windows: full, never overlapping, seeded, and cut as the field cuts them."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pruning_core.calibration import (
    Split,
    Text,
    calibration_windows,
    measured_part,
    measurement_windows,
)
from pruning_core.errors import PrunescopeError
from tests.model import tiny_checkpoints

BOS, EOS = 0, 1
WORDS = 2_000


def word_tokenizer(*, bos: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer that turns ``w7`` into 7 and, like Llama's, puts BOS in front by itself."""
    vocabulary = {"<s>": BOS, "</s>": EOS} | {f"w{n}": n for n in range(2, WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>" if bos else None,
        eos_token="</s>" if eos else None,
        model_max_length=4,
    )


TOKENIZER = word_tokenizer()
BARE = word_tokenizer(bos=False, eos=False)


def words(start: int, stop: int) -> str:
    return " ".join(f"w{n}" for n in range(start, stop))


def text_of(*documents: str) -> Text:
    return Text("sample", Split.CALIBRATION, documents, "\n\n", "a test")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Text, int, int]:
    """A text whose tokens are all different, and windows that fit into it."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    documents, start = [], 2
    for size in sizes:
        documents.append(words(start, start + size))
        start += size
    total = start - 2 + len(sizes)  # one EOS a document
    length = draw(st.integers(2, max(2, total)).filter(lambda length: length <= total))
    count = draw(st.integers(1, total // length))
    return text_of(*documents), count, length


@given(layouts(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_calibration_windows_are_full_disjoint_and_repeatable(
    layout: tuple[Text, int, int], seed: int
) -> None:
    text, count, length = layout
    windows = calibration_windows(text, TOKENIZER, count=count, length=length, seed=seed)
    assert windows.shape == (count, length)
    assert windows.dtype == torch.long
    read = [token for token in windows.flatten().tolist() if token != EOS]
    assert len(set(read)) == len(read)
    assert BOS not in read
    again = calibration_windows(text, TOKENIZER, count=count, length=length, seed=seed)
    assert torch.equal(windows, again)


def test_documents_are_packed_whole_with_an_eos_between() -> None:
    text = text_of(words(10, 13), "   ", words(20, 23))
    packed = calibration_windows(text, TOKENIZER, count=1, length=8, seed=0)[0].tolist()
    assert packed in (
        [10, 11, 12, EOS, 20, 21, 22, EOS],
        [20, 21, 22, EOS, 10, 11, 12, EOS],
    )
    bare = calibration_windows(text, BARE, count=1, length=6, seed=0)[0].tolist()
    assert bare in ([10, 11, 12, 20, 21, 22], [20, 21, 22, 10, 11, 12])


def test_every_layout_is_equally_likely() -> None:
    # Two windows of two in five tokens: they can start at 0 and 2, 0 and 3, or 1 and 3,
    # in either order.
    text = text_of(words(10, 15))
    seen = Counter(
        tuple(calibration_windows(text, BARE, count=2, length=2, seed=seed)[:, 0].tolist())
        for seed in range(1_200)
    )
    assert set(seen) == {(10, 12), (12, 10), (10, 13), (13, 10), (11, 13), (13, 11)}
    assert all(140 < times < 260 for times in seen.values())


def test_a_big_corpus_is_read_in_part_and_from_all_over() -> None:
    documents = tuple(f"w{n} " * 10 for n in range(2, WORDS))
    taken: list[str] = []

    class Counting:
        eos_token_id = EOS

        def __call__(self, document: str, **options: Any) -> Any:
            taken.append(document)
            return TOKENIZER(document, **options)

    windows = calibration_windows(text_of(*documents), Counting(), count=8, length=16, seed=3)
    assert len(taken) < 60
    assert windows.max() > WORDS / 2 > windows[windows != EOS].min()


def test_a_long_file_is_read_in_part_and_from_inside() -> None:
    book = "\n".join(f"w{2 + n % (WORDS - 2)} " * 20 for n in range(20_000))
    starts = {
        calibration_windows(text_of(book), BARE, count=1, length=4, seed=seed)[0, 0].item()
        for seed in range(8)
    }
    assert len(starts) > 4


def test_a_long_document_without_line_ends_loses_nothing() -> None:
    book = "w7 " * 80_000
    windows = calibration_windows(text_of(book), BARE, count=1, length=80_000, seed=0)
    assert windows.shape == (1, 80_000)


@pytest.mark.parametrize("length", [50, 131_072, 10**12])
def test_a_text_too_small_for_the_windows_is_refused_with_figures(length: int) -> None:
    text = text_of(words(10, 30))
    with pytest.raises(PrunescopeError, match=rf"has 21 tokens.*need {3 * length:,}\. Lower"):
        calibration_windows(text, TOKENIZER, count=3, length=length, seed=0)


def test_measurement_tokenises_the_joined_text_once_and_drops_the_tail() -> None:
    text = text_of(words(10, 15), words(15, 20), "", words(20, 22))
    windows = measurement_windows(text, TOKENIZER, length=4)
    assert windows.tolist() == [[BOS, 10, 11, 12], [13, 14, 15, 16], [17, 18, 19, 20]]
    assert windows.dtype == torch.long


def test_measurement_stops_at_the_limit() -> None:
    text = text_of(words(10, 30))
    assert measurement_windows(text, BARE, length=4, limit=2).tolist() == [
        [10, 11, 12, 13],
        [14, 15, 16, 17],
    ]
    assert measurement_windows(text, BARE, length=4, limit=99).shape == (5, 4)


def test_bos_stands_in_front_of_every_window_and_counts() -> None:
    text = text_of(words(10, 20))
    windows = measurement_windows(text, TOKENIZER, length=4, bos=True)
    assert windows.tolist() == [[BOS, 10, 11, 12], [BOS, 13, 14, 15], [BOS, 16, 17, 18]]
    assert windows.dtype == torch.long


def test_the_tokenizer_does_not_warn_of_long_texts(caplog: pytest.LogCaptureFixture) -> None:
    text = text_of(words(10, 50))
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        tokenizer = word_tokenizer()
        measurement_windows(text, tokenizer, length=4)
        calibration_windows(text, tokenizer, count=2, length=8, seed=0)
        assert caplog.text == ""
        tokenizer(text.joined)  # shows that there was something to keep quiet
        assert "longer than the specified maximum" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_what_can_not_be_measured_is_refused() -> None:
    text = text_of(words(10, 15))
    with pytest.raises(PrunescopeError, match="has 6 tokens and fills no window of 7"):
        measurement_windows(text, TOKENIZER, length=7)
    with pytest.raises(PrunescopeError, match="window length is 1"):
        measurement_windows(text, TOKENIZER, length=1)
    with pytest.raises(PrunescopeError, match="limit of windows is 0"):
        measurement_windows(text, TOKENIZER, length=2, limit=0)
    with pytest.raises(PrunescopeError, match="no begin-of-text token"):
        measurement_windows(text, BARE, length=2, bos=True)


def test_what_can_not_be_calibrated_on_is_refused() -> None:
    text = text_of(words(10, 15))
    with pytest.raises(PrunescopeError, match="window length is 0"):
        calibration_windows(text, TOKENIZER, count=1, length=0, seed=0)
    with pytest.raises(PrunescopeError, match="number of calibration windows is 0"):
        calibration_windows(text, TOKENIZER, count=0, length=4, seed=0)


def test_at_most_takes_what_the_text_has() -> None:
    text = text_of(words(2, 33))  # 31 words and one end-of-text token
    windows = calibration_windows(text, TOKENIZER, count=9, length=10, seed=0, at_most=True)
    assert windows.shape == (3, 10)
    with pytest.raises(PrunescopeError, match="32 tokens"):
        calibration_windows(text, TOKENIZER, count=9, length=33, seed=0, at_most=True)


@pytest.mark.parametrize("bos", [False, True])
def test_the_measured_part_is_what_the_windows_hold(bos: bool) -> None:
    text = text_of(words(10, 20), words(20, 90))
    windows = measurement_windows(text, TOKENIZER, length=8, limit=2, bos=bos)
    part = measured_part(text, windows, TOKENIZER)
    # A begin-of-text token is in the first window only, or in both.
    first, second = words(10, 17), words(17, 24 if bos else 25)
    assert part.documents == (first, second)
    assert part.joined == first + second
    assert (part.corpus, part.split, part.source) == (text.corpus, text.split, text.source)


def test_a_word_that_two_windows_share_is_whole_in_the_measured_part() -> None:
    tokenizer = tiny_checkpoints.tokenizer()
    text = text_of("The quick brown fox jumps over the lazy dog.")
    windows = measurement_windows(text, tokenizer, length=11)
    part = measured_part(text, windows, tokenizer)
    assert len(windows) == 4
    assert part.joined == text.joined
