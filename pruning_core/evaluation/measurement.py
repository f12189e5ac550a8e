"""Measurements of one model, or of a plan beside its dense self: values with their intervals.

Each is under one protocol or on one task, and becomes plain values with `as_dict`. An interval is
``{"value", "low", "high"}``; a difference also says whether it is ``beyond_noise``, judged piece by
piece on the same windows or items. What overflowed, or has no interval, is None there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruning_core.calibration.text import Text
from pruning_core.evaluation.agreement import Agreement, measure_beside
from pruning_core.evaluation.intervals import LEVEL, Interval, bootstrap, paired, perplexity_of
from pruning_core.evaluation.perplexity import check_length, check_numbers, measure_spans
from pruning_core.evaluation.protocol import Protocol
from pruning_core.evaluation.quality import Quality
from pruning_core.evaluation.tasks.accuracy import Answers, Scorer, Selection, ask
from pruning_core.planning.plan import Plan
from pruning_core.progress import Tick, silent
from pruning_core.surgery.workbench import Workbench

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Measurement:
    """Perplexity and next-token accuracy under a protocol.

    Attributes:
        protocol: how.
        text: where the measured text came from, and its sha256.
        bos: where the begin-of-text token stood, in words.
        leaked: whether the recipe was calibrated on text that is measured here.
        dense: the dense model.
        pruned: the plan's, None where there is none.
        agreement: of the two.
    """

    protocol: Protocol
    text: tuple[str, str]
    bos: str
    leaked: bool
    dense: Quality
    pruned: Quality | None
    agreement: Agreement | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        source, sha256 = self.text
        values: dict[str, Any] = {
            **vars(self.protocol),
            "bos": self.bos,
            "source": source,
            "sha256": sha256,
            "windows": len(self.dense.windows),
            "tokens": self.dense.tokens,
            "level": LEVEL,
            "leaked": self.leaked,
            "dense": _quality(self.dense),
        }
        if self.pruned is not None and self.agreement is not None:
            values |= {
                "pruned": _quality(self.pruned),
                "delta": _quality_delta(self.dense, self.pruned),
                "agreement": _agreement(self.agreement),
            }
        return values


@dataclass(frozen=True)
class TaskMeasurement:
    """Accuracy on a task.

    Attributes:
        selection: what was asked.
        scorer: who scored.
        dense: the dense model's answers.
        pruned: the plan's, None where there is none.
    """

    selection: Selection
    scorer: Scorer
    dense: Answers
    pruned: Answers | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        task, documents = self.selection.task, self.selection.documents
        values: dict[str, Any] = {
            "title": task.title,
            "split": task.split,
            "note": task.note,
            "source": documents.source,
            "sha256": documents.sha256,
            "items": len(self.selection.items),
            "of": len(documents.rows),
            "sample": self.selection.seed,
            "shots": 0,
            "scorer": str(self.scorer),
            "chance": self.selection.chance,
            "level": LEVEL,
            "resumed_items": self.dense.resumed,
            "dense": {
                name: as_values(bootstrap(right)) for name, right in self.dense.right.items()
            },
        }
        if self.pruned is not None:
            before, after = self.dense.right, self.pruned.right
            values["pruned"] = {name: as_values(bootstrap(right)) for name, right in after.items()}
            values["delta"] = {
                name: _difference(paired(before[name], after[name])) for name in before
            }
        return values


def measure_protocol(
    bench: Workbench,
    tokenizer: PreTrainedTokenizerBase,
    protocol: Protocol,
    text: Text,
    plan: Plan | None = None,
    *,
    leaked: bool = False,
    tick: Tick = silent,
) -> Measurement:
    """Measure the dense model, and a plan beside it; the bench is left as it was.

    Raises:
        PrunescopeError: if the text is too short, the window too long for the model, or what the
            model returns is no number.
        Cancelled: by `tick`.
    """
    check_length(bench.model, protocol.window)
    spans = protocol.spans(text, tokenizer)
    agreement = pruned = None
    if plan is None:
        dense = measure_spans(bench.model, spans, tick, "dense")
    else:
        beside = measure_beside(bench, plan, spans, tick=tick)
        dense, pruned, agreement = beside.dense, beside.pruned, beside.agreement
        check_numbers(pruned, "pruned")
    check_numbers(dense, "dense")
    bos = str(protocol.bos.resolved(tokenizer))
    where = (text.source, text.sha256)
    return Measurement(protocol, where, bos, leaked, dense, pruned, agreement)


def measure_task(
    bench: Workbench,
    tokenizer: PreTrainedTokenizerBase,
    selection: Selection,
    identity: Mapping[str, Any],
    plan: Plan | None = None,
    *,
    scorer: Scorer = Scorer.FAST,
    resume: bool = False,
    tick: Tick = silent,
) -> TaskMeasurement:
    """Ask the dense model, and the one that a plan makes of it, the same items.

    A dense bench is left dense; what is there from before is used only with `resume`.

    Args:
        identity: of the dense model and the machine, see `ask`; the recipe is added here.

    Raises:
        PrunescopeError: as `ask` does.
        Cancelled: by `tick`; what is answered by then is kept for `resume`.
    """

    def answers(recipe: str | None, note: str) -> Answers:
        return ask(
            bench.model,
            tokenizer,
            selection,
            {**identity, "recipe": recipe},
            scorer=scorer,
            resume=resume,
            tick=tick,
            note=f"{selection.task.name}, {note}",
        )

    dense, pruned = answers(None, "dense"), None
    if plan is not None:
        try:
            bench.apply(plan)
            pruned = answers(plan.recipe.digest, "pruned")
        finally:
            bench.restore()
    return TaskMeasurement(selection, scorer, dense, pruned)


def as_values(interval: Interval) -> dict[str, float | None]:
    """Return an interval as plain values; JSON has no infinity."""
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}


def _quality(quality: Quality) -> dict[str, Any]:
    nll, correct, scored = _pieces(quality)
    return {
        "perplexity": as_values(bootstrap(nll, scored).mapped(perplexity_of))
        if all(map(math.isfinite, nll))
        else dict.fromkeys(("value", "low", "high")),
        "accuracy": as_values(bootstrap(correct, scored)),
    }


def _quality_delta(dense: Quality, pruned: Quality) -> dict[str, Any]:
    before, right_before, scored = _pieces(dense)
    after, right_after, _ = _pieces(pruned)
    found: dict[str, Any] = {"accuracy": _difference(paired(right_before, right_after, scored))}
    if all(map(math.isfinite, [*before, *after])):
        loss = paired(before, after, scored)
        found["loss"] = _difference(loss)
        found["perplexity_ratio"] = {
            **as_values(loss.mapped(perplexity_of)),
            "beyond_noise": loss.beyond_noise,
        }
    return found


def _agreement(agreement: Agreement) -> dict[str, Any]:
    scored = [window.scored for window in agreement.windows]
    divergence = [window.divergence for window in agreement.windows]
    same = [window.same / window.scored for window in agreement.windows]
    return {
        "divergence": as_values(bootstrap(divergence, scored)),
        "highest_divergence": max(window.highest for window in agreement.windows),
        "same_prediction": as_values(bootstrap(same, scored)),
    }


def _difference(interval: Interval) -> dict[str, Any]:
    return {**as_values(interval), "beyond_noise": interval.beyond_noise}


def _pieces(quality: Quality) -> tuple[list[float], list[float], list[float]]:
    """Return each window's loss, its share of right predictions, and the tokens it scored."""
    windows = quality.windows
    return (
        [window.nll for window in windows],
        [window.correct / window.scored for window in windows],
        [float(window.scored) for window in windows],
    )
