"""The leak guard: copies are found however they are set, strangers pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.calibration import (
    CORPORA,
    DATA_VARIABLE,
    Split,
    Text,
    find_leak,
    guard,
    load_text,
)
from pruning_core.errors import PrunescopeError

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def calibration(*documents: str) -> Text:
    return Text("mine", Split.CALIBRATION, documents, "\n\n", "a test")


def measurement(*documents: str) -> Text:
    return Text("other", Split.MEASUREMENT, documents, "\n\n", "a test")


def words(start: int, stop: int) -> str:
    return " ".join(f"w{n}" for n in range(start, stop))


def test_a_text_leaks_into_itself_in_full() -> None:
    report = find_leak(calibration(words(0, 100)), measurement(words(0, 100)))
    assert (report.shared, report.total, report.share) == (88, 88, 1.0)
    assert report.leaking
    assert "88 of 88" in report.sentence()
    assert "100.0%" in report.sentence()


def test_strangers_do_not_leak() -> None:
    report = find_leak(calibration(words(0, 100)), measurement(words(100, 200)))
    assert (report.shared, report.leaking) == (0, False)
    assert "no run of 13 words in common" in report.sentence()


@given(st.integers(0, 40))
def test_runs_of_thirteen_words_count(copied: int) -> None:
    mine = calibration(words(0, 200) + " " + words(1_000, 1_000 + copied))
    other = measurement(words(500, 800) + " " + words(1_000, 1_000 + copied))
    assert find_leak(mine, other).shared == max(0, copied - 12)


@pytest.mark.parametrize(("copied", "leaking"), [(12 + 10, False), (12 + 11, True)])
def test_more_than_one_percent_is_a_leak(copied: int, leaking: bool) -> None:
    mine = calibration(words(0, 1_012))  # 1,000 runs
    other = measurement(words(0, copied) + " " + words(5_000, 9_000))
    report = find_leak(mine, other)
    assert (report.total, report.leaking) == (1_000, leaking)


def test_a_test_set_hidden_in_a_large_text_is_found() -> None:
    test_set = words(0, 100)
    report = find_leak(calibration(words(1_000, 40_000), test_set), measurement(test_set))
    assert report.share == 1.0


def test_case_punctuation_and_line_breaks_hide_nothing() -> None:
    plain = "In 2004 Boulter didn't lose 1,000 well-known games (so they say); he won a few."
    spaced = " In 2004 boulter didn 't lose 1 @,@ 000 well @-@ known\ngames ( so they say ) ; he"
    assert find_leak(calibration(plain), measurement(spaced)).leaking


def test_texts_shorter_than_a_run_compare_as_wholes() -> None:
    long = measurement("before that " + words(0, 50))
    assert find_leak(calibration("w3 w4 w5"), long).leaking
    assert not find_leak(calibration("w3 w5 w4"), long).leaking
    assert find_leak(calibration(words(0, 50)), measurement("w3 w4 w5")).leaking


def test_texts_without_words_share_nothing() -> None:
    report = find_leak(calibration("... !"), measurement(words(0, 50)))
    assert (report.share, report.leaking) == (0.0, False)


def test_the_guard_refuses_unless_allowed_and_then_marks() -> None:
    text = words(0, 100)
    with pytest.raises(PrunescopeError, match=r"100\.0%.*'mine'.*'other'.*allow the overlap"):
        guard(calibration(text), measurement(text), allow=False)
    assert guard(calibration(text), measurement(text), allow=True) is True


@pytest.mark.parametrize("allow", [False, True])
def test_the_guard_lets_strangers_pass_unmarked(allow: bool) -> None:
    assert guard(calibration(words(0, 100)), measurement(words(100, 200)), allow=allow) is False


def test_a_file_for_both_splits_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(words(0, 500))
    name = f"file:{path}"
    with pytest.raises(PrunescopeError, match="Choose another corpus"):
        guard(load_text(name, Split.CALIBRATION), load_text(name, Split.MEASUREMENT), allow=False)


def test_the_embedded_halves_do_not_leak() -> None:
    report = find_leak(
        load_text("embedded", Split.CALIBRATION), load_text("embedded", Split.MEASUREMENT)
    )
    assert report.total > 15_000
    assert report.share < 0.002


def test_no_pair_of_the_local_corpora_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder of corpora at ../shared/data")
    monkeypatch.setenv(DATA_VARIABLE, str(SHARED_DATA))
    texts = {
        split: [
            load_text(name, split)
            for name, corpus in CORPORA.items()
            if split in corpus.splits and not name.startswith("ptb")  # there is no local copy
        ]
        for split in Split
    }
    leaks = [
        (mine.corpus, other.corpus)
        for mine in texts[Split.CALIBRATION]
        for other in texts[Split.MEASUREMENT]
        if find_leak(mine, other).leaking
    ]
    assert leaks == []
