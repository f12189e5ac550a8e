"""Perplexity and accuracy, worked by hand and against torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pruning_core.evaluation import quality as quality_module
from pruning_core.evaluation.quality import Quality, WindowQuality, window_quality
from tests import tiny


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_worked_by_hand() -> None:
    # The last row predicts what no token of the window answers to.
    logits = logits_of([0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.125, 0.75, 0.125], [1, 0, 0])
    window = window_quality(logits, torch.tensor([2, 0, 1, 2]))
    assert window.nll == pytest.approx(-math.log(0.5 * 0.8 * 0.125) / 3, rel=1e-6)
    assert (window.correct, window.scored) == (2, 3)


def test_windows_weigh_by_the_tokens_they_score() -> None:
    quality = Quality((WindowQuality(1.0, 2, 4), WindowQuality(2.0, 12, 12)))
    assert quality.perplexity == pytest.approx(math.exp((1 * 4 + 2 * 12) / 16))
    assert quality.accuracy == 14 / 16
    assert quality.tokens == 16


@pytest.mark.parametrize("nll", [700.0, 1e5, math.inf, math.nan])
def test_what_no_float_holds_is_infinite(nll: float) -> None:
    quality = Quality((WindowQuality(2.0, 0, 1), WindowQuality(2 * nll, 0, 1)))
    assert quality.perplexity == math.inf
    assert math.isfinite(Quality((WindowQuality(699.0, 0, 1),)).perplexity)


@given(
    st.integers(2, 40),
    st.sampled_from([2, 3, 97, 127, 128, 129, 300]),
    st.sampled_from([1, 128, 400, 1000, 1 << 18]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.floats(-50, 50),
)
@settings(max_examples=50, deadline=None)
def test_equals_torch_whatever_the_vocabulary_and_the_block(
    tokens: int, vocabulary: int, block: int, dtype: torch.dtype, offset: float
) -> None:
    draw = torch.Generator().manual_seed(tokens * vocabulary)
    logits = (torch.randn(tokens, vocabulary, generator=draw) * 3 + offset).to(dtype)
    ids = torch.randint(0, vocabulary, (tokens,), generator=draw)
    # Rows of whole numbers have equals: the first of them is the prediction, as for torch.
    logits[::3] = logits[::3].round()
    before = logits.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_module, "CACHED_BLOCK", block)
        window = window_quality(logits, ids)
    expected = F.cross_entropy(logits[:-1].double(), ids[1:]).item()
    assert window.nll == pytest.approx(expected, rel=1e-5, abs=2e-5)
    assert window.correct == (logits[:-1].float().argmax(-1) == ids[1:]).sum()
    assert window.scored == tokens - 1
    assert torch.equal(logits, before)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4], [0, 0]])
    window = window_quality(logits, torch.tensor([0, 0, 1]))
    assert window.nll == pytest.approx(1e4)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_equals_the_loss_of_transformers(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3)
    losses = [model(input_ids=ids[None], labels=ids[None]).loss.item() for ids in windows]
    found = Quality(tuple(window_quality(model(ids[None]).logits[0], ids) for ids in windows))
    assert found.perplexity == pytest.approx(math.exp(sum(losses) / 3), rel=1e-5)
