"""Whole windows, one by one, with the model left alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pruning_core.evaluation.perplexity import measure_windows
from pruning_core.progress import Cancelled
from tests import tiny


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_equals_the_naive_computation(family: str) -> None:
    model, windows = tiny.tiny_model(family), tiny.tokens(windows=3, length=30)
    quality = measure_windows(model, windows)
    logits = model(windows).logits[:, :-1]
    nll = F.cross_entropy(logits.reshape(-1, tiny.VOCABULARY), windows[:, 1:].flatten())
    assert quality.perplexity == pytest.approx(math.exp(nll), rel=1e-5)
    right = (logits.argmax(-1) == windows[:, 1:]).double().mean()
    assert quality.accuracy == pytest.approx(right.item())
    assert quality.tokens == 3 * 29
    assert len(quality.windows) == 3


def test_every_window_is_reported_with_the_note() -> None:
    heard = []

    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total, note))

    measure_windows(tiny.tiny_model(), tiny.tokens(windows=2), listen, "dense")
    assert heard == [("measuring", done, 2, "dense") for done in range(3)]


def test_cancelling_is_passed_on_between_windows() -> None:
    model = tiny.tiny_model()
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))

    def stop(_stage: str, done: int, _total: int, note: str = "") -> None:
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure_windows(model, tiny.tokens(windows=3), stop)
    assert len(passes) == 1


def test_nothing_is_kept_for_a_backward_pass() -> None:
    model = tiny.tiny_model().requires_grad_(True)
    graphs: list[bool] = []
    model.register_forward_hook(lambda _m, _a, output: graphs.append(output.logits.requires_grad))
    measure_windows(model, tiny.tokens())
    assert graphs == [False, False]
    assert torch.is_grad_enabled()
