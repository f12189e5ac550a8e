"""A number, and nothing else. How large it is, no test can say."""

from __future__ import annotations

import math

import torch

from pruning_core.evaluation.speed import prefill_speed
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
