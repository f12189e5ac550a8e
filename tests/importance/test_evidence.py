"""What would not fit is refused before it starts, and the present listener hears of the work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from pruning_core.errors import PrunescopeError
from pruning_core.importance.evidence import Evidence, evidence_for
from pruning_core.model import memory
from pruning_core.model.anatomy import read_anatomy
from pruning_core.progress import Tick
from pruning_core.recipe import Calibration
from tests import tiny
from tests.model.tiny_checkpoints import model as tiny_checkpoint
from tests.model.tiny_checkpoints import tokenizer

LENGTH = 100_000


def of_long_windows() -> Evidence:
    def draw(count: int | None, _tick: Tick) -> torch.Tensor:
        return tiny.tokens(windows=count or 3, length=LENGTH)

    model = tiny.tiny_model()
    model.register_forward_pre_hook(lambda *_: pytest.fail("it was tried"))
    return Evidence(model, read_anatomy(model), draw)


@pytest.mark.parametrize(
    "ask", [lambda evidence: evidence.taylor, lambda evidence: evidence.divergence(2)]
)
def test_what_does_not_fit_is_refused_with_the_figures_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Evidence], object]
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 200_000_000)
    said = r"windows of 100000 tokens does not fit on cpu: .* needs \d\.\d GB, and 0\.2 GB are free"
    with pytest.raises(PrunescopeError, match=said):
        ask(of_long_windows())


def test_what_looks_at_no_text_needs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 0)
    evidence = of_long_windows()
    coupling = evidence.anatomy.sites[0].couplings[0]
    assert evidence.weight(coupling).ndim == 2


def test_the_listener_that_was_set_last_hears_the_text_being_read() -> None:
    heard: dict[str, list[str]] = {"first": [], "second": [], "third": []}

    def listener(name: str) -> Tick:
        return lambda stage, done, total, note="": heard[name].append(stage)

    model = tiny_checkpoint()
    calibration = Calibration(windows=2, length=16)
    evidence = evidence_for(model, tokenizer(), read_anatomy(model), calibration, listener("first"))
    evidence.tick = listener("second")
    assert evidence.windows.shape == (2, 16)
    assert heard == {"first": [], "second": ["reading text"], "third": []}
    evidence.tick = listener("third")
    assert evidence.divergence(3).windows == 3
    assert heard == {"first": [], "second": ["reading text"], "third": ["reading text"]}
