"""A number, and nothing else. How large it is, no test can say."""

from __future__ import annotations

import math

import pytest
import torch

from pruning_core.evaluation.speed import REPEATS, prefill_speed
from pruning_core.progress import Cancelled
from tests import tiny


def test_speed_is_a_positive_number_and_the_model_stays_as_it_was() -> None:
    model, window = tiny.tiny_model(), tiny.tokens(windows=1)[0]
    logits = model(window[None]).logits
    seen: list[torch.Size] = []
    handle = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    speed = prefill_speed(model, window)
    handle.remove()
    assert math.isfinite(speed)
    assert speed > 0
    assert len(seen) > 1, "one pass warms up"
    assert set(seen) == {torch.Size([1, len(window)])}
    assert torch.equal(model(window[None]).logits, logits)


@pytest.mark.parametrize("last", range(REPEATS + 1))
def test_it_can_be_stopped_before_every_pass(last: int) -> None:
    model = tiny.tiny_model()
    passes: list[int] = []
    heard: list[tuple[str, int, int]] = []
    model.register_forward_pre_hook(lambda *_args: passes.append(1))

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        heard.append((stage, done, total))
        if done == last:
            raise Cancelled

    with pytest.raises(Cancelled):
        prefill_speed(model, tiny.tokens(windows=1)[0], stop)
    assert len(passes) == last
    assert heard == [("timing", index, REPEATS + 1) for index in range(last + 1)]
