"""How far a pruned model is from its dense self, token by token.

The Kullback-Leibler divergence from the dense model's prediction to the pruned one's, and how often
both find the same token most probable: both see damage long before a task does. Both models are
measured on the way, in one process and on the same tokens.

Only one of the two is on the bench at a time. Of the dense one the hidden states that leave the
last layer are kept, a few windows at a time, and its logits are made from them again when their
turn comes: what is as large as the vocabulary exists for one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pruning_core.calibration.windows import Span
from pruning_core.evaluation.perplexity import span_logits, span_quality
from pruning_core.evaluation.quality import CACHED_BLOCK, Quality, WindowQuality
from pruning_core.model.forward import decoder_layers, recorded, resumed
from pruning_core.planning.plan import Plan
from pruning_core.progress import Tick, silent
from pruning_core.surgery.workbench import Workbench

STATE_BYTES = 1 << 28
"""Memory for hidden states of the dense model, at the most."""


@dataclass(frozen=True)
class WindowAgreement:
    """One window.

    Attributes:
        divergence: mean Kullback-Leibler divergence of its predictions, nats; 0 for equal models.
        highest: that of the token where the two differ most.
        same: predictions whose most probable token is the same.
        scored: predictions that were compared.
    """

    divergence: float
    highest: float
    same: int
    scored: int


@dataclass(frozen=True)
class Agreement:
    """Agreement over the windows of a protocol, in their order."""

    windows: tuple[WindowAgreement, ...]

    @cached_property
    def tokens(self) -> int:
        """Predictions that were compared."""
        return sum(window.scored for window in self.windows)

    @cached_property
    def divergence(self) -> float:
        """Mean Kullback-Leibler divergence per token, nats."""
        return sum(window.divergence * window.scored for window in self.windows) / self.tokens

    @cached_property
    def same(self) -> float:
        """Share of tokens whose most probable prediction is the same, 0 to 1."""
        return sum(window.same for window in self.windows) / self.tokens


@dataclass(frozen=True)
class Beside:
    """A pruned model beside its dense self: the quality of both, and where they agree."""

    dense: Quality
    pruned: Quality
    agreement: Agreement


@torch.no_grad()
def measure_beside(
    bench: Workbench,
    plan: Plan,
    spans: Sequence[Span],
    *,
    state_bytes: int = STATE_BYTES,
    tick: Tick = silent,
) -> Beside:
    """Measure a plan beside the dense model; the plan that is applied now comes back at the end.

    Args:
        bench: whose model is measured.
        plan: what to compare with dense.
        spans: the text.
        state_bytes: memory for hidden states; more saves changes between the two models.
        tick: hears one step per forward pass.

    Raises:
        Cancelled: by `tick`, between passes.
    """
    layers = decoder_layers(bench.model, bench.anatomy)
    head = len(layers)
    dense: list[WindowQuality] = []
    pruned: list[WindowQuality] = []
    agreement: list[WindowAgreement] = []
    with bench.given_back():
        for group in _groups(bench, spans, state_bytes):
            states: list[torch.Tensor] = []
            bench.restore()
            for span in group:
                tick("measuring", len(dense) + len(pruned), 2 * len(spans), "dense")
                with recorded(layers, [head]) as leaving:
                    dense.append(span_quality(span_logits(bench.model, span), span))
                states.append(leaving[head])
            bench.apply(plan)
            for span, state in zip(group, states, strict=True):
                tick("measuring", len(dense) + len(pruned), 2 * len(spans), "pruned")
                logits = span_logits(bench.model, span)
                pruned.append(span_quality(logits, span))
                # No plan touches what comes after the last layer, so this is the dense head.
                with resumed(layers, head, state):
                    twin = span_logits(bench.model, span)
                here = slice(-span.scored - 1, -1)
                agreement.append(agreement_of(twin[here], logits[here]))
    tick("measuring", 2 * len(spans), 2 * len(spans))
    return Beside(Quality(tuple(dense)), Quality(tuple(pruned)), Agreement(tuple(agreement)))


def agreement_of(dense: torch.Tensor, pruned: torch.Tensor) -> WindowAgreement:
    """Compare the logits of two models for the same tokens, [tokens, vocabulary], in fp32."""
    tokens, vocabulary = dense.shape
    rows = max(CACHED_BLOCK // vocabulary, 1) if dense.device.type == "cpu" else tokens
    divergence, same = [], 0
    for ours, theirs in zip(dense.split(rows), pruned.split(rows), strict=True):
        log_p, log_q = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        # Rounding may leave a hair less than nothing between equals.
        divergence.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0))
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
    each = torch.cat(divergence)
    return WindowAgreement(float(each.mean()), float(each.max()), same, tokens)


def _groups(bench: Workbench, spans: Sequence[Span], budget: int) -> Iterator[Sequence[Span]]:
    """Yield the spans in runs whose hidden states fit into `budget` bytes, at least one a run."""
    token = bench.anatomy.hidden_size * next(bench.model.parameters()).element_size()
    longest = max(len(span.ids) for span in spans)
    size = max(budget // (longest * token), 1)
    for start in range(0, len(spans), size):
        yield spans[start : start + size]
