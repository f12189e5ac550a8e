"""Quality over a whole corpus: every window of a protocol, one forward pass each."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pruning_core.evaluation.quality import Quality, window_quality
from pruning_core.progress import Tick, silent


@torch.no_grad()
def measure_windows(
    model: PreTrainedModel, windows: torch.Tensor, tick: Tick = silent, note: str = ""
) -> Quality:
    """Return the quality of a model on windows, int64 [windows, tokens].

    Raises:
        Cancelled: by `tick`, between windows.
    """
    scored = []
    for index, ids in enumerate(windows):
        tick("measuring", index, len(windows), note)
        logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
        scored.append(window_quality(logits, ids))
    tick("measuring", len(windows), len(windows), note)
    return Quality(tuple(scored))
