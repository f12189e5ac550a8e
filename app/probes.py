"""What live numbers are measured on: the windows of a protocol, and a few items of a task.

Reading and encoding them takes a while, so the last of each is kept, with what is known of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from app.recent import Recent
from pruning_core.progress import Tick

if TYPE_CHECKING:
    import torch

    from app.results import Sample
    from app.texts import Texts
    from pruning_core.calibration import Text
    from pruning_core.evaluation.live import LiveEvaluator
    from pruning_core.evaluation.protocol import Protocol
    from pruning_core.evaluation.tasks.live import LiveTask
    from pruning_core.model.loading import LoadedModel
    from pruning_core.surgery.workbench import Workbench

SEED = 0
"""Of every sample: all recipes answer the same items."""


class Probe(NamedTuple):
    """What a protocol measures on: the evaluator, its windows, the text, and what is read.

    `windows` is int64 [windows, tokens]; `read` is the part of the text that they hold.
    """

    evaluator: LiveEvaluator
    windows: torch.Tensor
    text: Text
    read: Text


class Probes:
    """The probes of one model on the bench."""

    def __init__(self, loaded: LoadedModel, bench: Workbench, texts: Texts) -> None:
        """Start with none.

        Args:
            texts: reads corpora, and outlives the model.
        """
        self._loaded, self._bench, self._texts = loaded, bench, texts
        self._windows: Recent[Protocol, Probe] = Recent(1)
        self._tasks: Recent[Sample, LiveTask] = Recent(1)

    def windows(self, protocol: Protocol, tick: Tick) -> Probe:
        """Return what a protocol measures on.

        Raises:
            PrunescopeError: if its text cannot be had, or is too short.
        """
        from pruning_core.calibration import Split, measured_part, measurement_windows
        from pruning_core.evaluation.live import LiveEvaluator

        known = self._windows.get(protocol)
        if known is None:
            tokenizer = self._loaded.tokenizer
            text = self._texts.read(protocol.corpus, Split.MEASUREMENT, tick)
            windows = measurement_windows(
                text,
                tokenizer,
                length=protocol.window,
                limit=protocol.limit,
                bos=protocol.bos,
            )
            known = Probe(
                LiveEvaluator(self._bench, windows),
                windows,
                text,
                measured_part(text, windows, tokenizer),
            )
            self._windows[protocol] = known
        return known

    def task(self, sample: Sample, tick: Tick) -> LiveTask:
        """Return what asks a sample.

        Raises:
            PrunescopeError: if the rows of its task are missing or damaged, or can't be asked.
        """
        from pruning_core.evaluation.tasks.accuracy import select
        from pruning_core.evaluation.tasks.definitions import task
        from pruning_core.evaluation.tasks.live import LiveTask

        known = self._tasks.get(sample)
        if known is None:
            tick("reading", 0, 1, sample.task)
            selection = select(task(sample.task), sample.items, SEED)
            known = LiveTask(self._bench, self._loaded.tokenizer, selection)
            self._tasks[sample] = known
        return known
