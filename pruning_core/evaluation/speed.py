"""Measured speed: tokens per second of a prefill."""

from __future__ import annotations

import statistics
import time

import torch
from transformers import PreTrainedModel

from pruning_core.progress import Tick, silent

REPEATS = 3


@torch.no_grad()
def prefill_speed(model: PreTrainedModel, window: torch.Tensor, tick: Tick = silent) -> float:
    """Return tokens per second of a forward pass over one window, int64 [tokens].

    One pass warms up; the median of the next few counts. On a shared machine expect some per cent
    of noise.

    Raises:
        Cancelled: by `tick`, before each pass.
    """
    ids = window[None].to(model.device)
    seconds = []
    for index in range(REPEATS + 1):
        tick("timing", index, REPEATS + 1)
        started = time.perf_counter()
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
        if model.device.type != "cpu":
            torch.accelerator.synchronize(model.device)
        seconds.append(time.perf_counter() - started)
    return len(window) / statistics.median(seconds[1:])
