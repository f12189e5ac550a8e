"""Live measurement: only the layers from the lowest changed one upwards run again.

The hidden states that enter every layer are kept, each under a digest of everything below that
layer. A plan finds the deepest entrance it shares with any plan measured before, whoever measured
it, and the forward pass goes on from there. The same states in give the same numbers out, so a
resumed measurement equals a full one bit for bit where the kernels are deterministic.

The dense states outlive all others: every recipe is dense up to its lowest changed layer, so they
serve whatever is tried next, and a dense number answered from memory does not bring them back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch

from pruning_core.evaluation.quality import Quality, WindowQuality, window_quality
from pruning_core.model.forward import decoder_layers, logits_into, recorded, resumed
from pruning_core.planning.plan import Plan, prefixes
from pruning_core.progress import Tick, silent
from pruning_core.surgery.workbench import Workbench

BATCH_TOKENS = 1024
"""Tokens of a forward pass: enough to fill the matrix units, few enough for their logits."""

FULL_SETS = 3
"""How many complete sets of hidden states are kept: the dense one and the last few recipes."""

KNOWN = 10_000
"""Of how many plans the quality is remembered."""


class StateCache:
    """Hidden states by (digest of what lies below, batch); forgets the least recently used.

    Those under a lasting digest are never forgotten; where they fill the budget, the first that
    came stay. All are looked for in the same order again and again, so that to forget the oldest
    would be to forget just what comes next.
    """

    def __init__(self, budget: int, lasting: Collection[str] = ()) -> None:
        """Keep at most `budget` bytes, and the states under `lasting` digests for good."""
        self._budget = budget
        self._bytes = 0
        self._digests = frozenset(lasting)
        self._lasting: dict[tuple[str, int], torch.Tensor] = {}
        self._passing: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()

    def get(self, key: tuple[str, int]) -> torch.Tensor | None:
        """Return a state if it is still here."""
        if key in self._passing:
            self._passing.move_to_end(key)
            return self._passing[key]
        return self._lasting.get(key)

    def put(self, key: tuple[str, int], state: torch.Tensor) -> None:
        """Keep a state, forgetting others if need be; one that has no room is not kept."""
        if self.get(key) is not None:
            return
        while self._passing and self._bytes + state.nbytes > self._budget:
            _, forgotten = self._passing.popitem(last=False)
            self._bytes -= forgotten.nbytes
        if self._bytes + state.nbytes <= self._budget:
            states = self._lasting if key[0] in self._digests else self._passing
            states[key] = state
            self._bytes += state.nbytes


class LivePasses:
    """Forward passes over a few fixed batches of tokens, each as short as the change allows.

    Attributes:
        batches: int64 [lines, tokens] each; what pads a line on the right is read as text.
    """

    def __init__(
        self,
        bench: Workbench,
        batches: Sequence[torch.Tensor],
        *,
        sets: int = FULL_SETS,
        most: int | None = None,
    ) -> None:
        """Prepare for one model and one set of batches.

        Args:
            bench: whose model runs.
            batches: int64 [lines, tokens] each.
            sets: how many complete sets of hidden states have room.
            most: bytes that they take at most, however large a set is.
        """
        self.batches = batches
        self._bench = bench
        self._layers = decoder_layers(bench.model, bench.anatomy)
        tokens = sum(batch.numel() for batch in batches)
        full = (len(self._layers) + 1) * tokens * bench.anatomy.hidden_size
        element = next(bench.model.parameters()).element_size()
        self._dense = prefixes(bench.anatomy, {})
        room = sets * full * element
        self._states = StateCache(room if most is None else min(room, most), self._dense)

    def digest(self, plan: Plan | None) -> str:
        """Return what stands for a whole plan, None for dense."""
        return self._digests(plan)[-1]

    def run(
        self,
        plan: Plan | None,
        around: Callable[[int], AbstractContextManager[None]],
        told: Callable[[int, int, str], None],
    ) -> Iterator[torch.Tensor]:
        """Yield the logits of every batch under the plan that is applied.

        Args:
            plan: that plan, None for dense.
            around: entered around the pass of a batch, by its index.
            told: hears of batches done, of all, and where the next one starts; it may raise.
        """
        digests, count = self._digests(plan), len(self.batches)
        for batch in range(count):
            start = self._deepest(digests, batch)
            told(batch, count, f"from layer {start}")
            with around(batch):
                logits = self._logits(digests, batch, start)
            yield logits
        told(count, count, "")

    def _digests(self, plan: Plan | None) -> tuple[str, ...]:
        """Return what stands for everything below each layer."""
        return self._dense if plan is None else plan.prefixes

    def _deepest(self, digests: tuple[str, ...], batch: int) -> int:
        """Return the highest layer entrance whose states are known, 0 if none is."""
        for entrance in range(len(self._layers), 0, -1):
            if self._states.get((digests[entrance], batch)) is not None:
                return entrance
        return 0

    @torch.no_grad()
    def _logits(self, digests: tuple[str, ...], batch: int, start: int) -> torch.Tensor:
        """Return the logits of a batch, going on from a layer whose states are known."""
        model = self._bench.model
        with ExitStack() as around:
            wanted = range(start + 1, len(self._layers) + 1)
            states = around.enter_context(recorded(self._layers, wanted))
            if start:
                hidden = self._states.get((digests[start], batch))
                assert hidden is not None
                around.enter_context(resumed(self._layers, start, hidden))
            ids = self.batches[batch].to(model.device)
            logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
        for entrance, state in states.items():
            self._states.put((digests[entrance], batch), state)
        return logits


class LiveEvaluator:
    """Measures plans on a few fixed windows, as quickly as the change allows."""

    def __init__(
        self, bench: Workbench, windows: torch.Tensor, state_bytes: int | None = None
    ) -> None:
        """Prepare for one set of probe windows.

        Args:
            bench: whose model is measured.
            windows: int64 [windows, tokens].
            state_bytes: memory for hidden states, at most and by default `FULL_SETS` complete sets.
        """
        self._bench = bench
        batches = windows.split(max(BATCH_TOKENS // windows.shape[1], 1))
        self._passes = LivePasses(bench, batches, most=state_bytes)
        self._logits = self._room_for_logits()
        self._known: OrderedDict[str, Quality] = OrderedDict()

    def measure(self, plan: Plan | None, tick: Tick = silent) -> Quality:
        """Return the quality of the model under a plan, None for dense.

        The plan stays applied. If the work fails or is cancelled, the plan before comes back.

        Raises:
            Cancelled: by `tick`, between batches.
        """
        passes, digest = self._passes, self._passes.digest(plan)
        with self._bench.applied(plan):
            if digest in self._known:
                return self._known[digest]
            scored: list[WindowQuality] = []
            runs = passes.run(plan, self._head, lambda *told: tick("measuring", *told))
            for logits, ids in zip(runs, passes.batches, strict=True):
                scored += [window_quality(*pair) for pair in zip(logits, ids, strict=True)]
        quality = Quality(tuple(scored))
        self._known[digest] = quality
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return quality

    def _head(self, _batch: int) -> AbstractContextManager[None]:
        """Let the logits of a batch lie where those of the one before did."""
        if self._logits is None:
            return nullcontext()
        return logits_into(self._bench.model, self._logits)

    def _room_for_logits(self) -> torch.Tensor | None:
        """Return memory for the logits of a batch, None where the device's allocator keeps its own.

        The system gives the pages of it only when they are first written.
        """
        model = self._bench.model
        if model.device.type != "cpu":
            return None
        tokens = max(batch.numel() for batch in self._passes.batches)
        head = model.get_output_embeddings().weight
        return torch.empty(tokens * len(head), dtype=head.dtype)
