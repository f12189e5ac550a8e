"""Quality over a whole corpus: every window of a protocol, one forward pass each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from pruning_core.calibration.windows import Span, whole_spans
from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.quality import Quality, WindowQuality, window_quality
from pruning_core.model.forward import positions
from pruning_core.progress import Tick, silent


def measure_windows(
    model: PreTrainedModel, windows: torch.Tensor, tick: Tick = silent, note: str = ""
) -> Quality:
    """Return the quality of a model on windows, int64 [windows, tokens].

    Raises:
        Cancelled: by `tick`, between windows.
    """
    return measure_spans(model, whole_spans(windows), tick, note)


@torch.no_grad()
def measure_spans(
    model: PreTrainedModel, spans: Sequence[Span], tick: Tick = silent, note: str = ""
) -> Quality:
    """Return the quality of a model on the scored tokens of spans.

    Raises:
        Cancelled: by `tick`, between spans.
    """
    scored = []
    for index, span in enumerate(spans):
        tick("measuring", index, len(spans), note)
        scored.append(span_quality(span_logits(model, span), span))
    tick("measuring", len(spans), len(spans), note)
    return Quality(tuple(scored))


def span_logits(model: PreTrainedModel, span: Span) -> torch.Tensor:
    """Return the logits of one forward pass, [tokens, vocabulary]."""
    return model(input_ids=span.ids[None].to(model.device), use_cache=False).logits[0]


def span_quality(logits: torch.Tensor, span: Span) -> WindowQuality:
    """Score a span's logits, [tokens, vocabulary]: the tokens that count, and no others."""
    tail = span.scored + 1
    return window_quality(logits[-tail:], span.ids[-tail:])


def check_length(model: PreTrainedModel, tokens: int) -> None:
    """Refuse windows for which the model has no positions.

    Raises:
        PrunescopeError: if it has fewer than `tokens`.
    """
    most = positions(model)
    if most is not None and tokens > most:
        raise PrunescopeError(
            f"A window of {tokens} tokens is longer than this model allows: it has {most:,} "
            "positions. Choose a protocol with a shorter window."
        )


def check_numbers(quality: Quality, whose: str) -> None:
    """Refuse a measurement that is none, as a wrecked model makes it.

    Raises:
        PrunescopeError: if a window's likelihood is not a number.
    """
    wrong = [i for i, window in enumerate(quality.windows) if window.nll != window.nll]
    if wrong:
        raise PrunescopeError(
            f"The {whose} model returns NaN in {len(wrong)} of {len(quality.windows)} windows, the "
            f"first of them window {wrong[0]}: there is nothing to measure. Load it in another "
            "dtype, or check its weights."
        )
