"""lm-eval on the model in memory: its definitions, its requests, its model code, its scoring.

The rows are handed to it, so that it works on local files as on the hub's. Likelihoods are made in
fp32, as the fast path makes them; lm-eval by itself would stay in the model's dtype, whose steps in
bf16 are coarser than many a difference between two answers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pruning_core.errors import PrunescopeError
from pruning_core.evaluation.tasks.definitions import Document, Task, Vote

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_SIZE = 8
"""Requests that lm-eval lets through the model at once."""


def definition(task: Task) -> dict[str, Any]:
    """Return lm-eval's own configuration of a task.

    Raises:
        PrunescopeError: if lm-eval is not installed.
    """
    try:
        import lm_eval  # type: ignore[import-untyped]
        from lm_eval.tasks._yaml_loader import load_yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise PrunescopeError(
            "lm-eval is not installed. Install what requirements.txt names, or use the fast path "
            "on local files."
        ) from error
    return load_yaml(Path(lm_eval.__file__).parent / "tasks" / task.definition)


class Harness:
    """One task as lm-eval asks and scores it."""

    def __init__(self, task: Task, rows: Sequence[Document]) -> None:
        """Build lm-eval's task on rows in the layout of its data set.

        Raises:
            PrunescopeError: if lm-eval is not installed.
        """
        config = definition(task)
        import datasets
        from lm_eval.api.task import ConfigurableTask  # type: ignore[import-untyped]

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        data = datasets.DatasetDict({task.split: datasets.Dataset.from_list(list(map(dict, rows)))})
        splits: dict[str, str | None] = {
            f"{name}_split": None for name in ("training", "validation", "test", "fewshot")
        }
        splits[f"{task.split}_split"] = task.split
        self._task = ConfigurableTask(
            config={**config, **splits, "custom_dataset": lambda **_: data}
        )
        self._documents = list(self._task.eval_docs)

    def requests(self, index: int) -> list[Any]:
        """Return lm-eval's requests for a row, each with its ``args``, context and continuation."""
        document = self._documents[index]
        context = self._task.fewshot_context(document, 0)
        made = self._task.construct_requests(document, context, metadata=(None, index, 1))
        return made if isinstance(made, list) else [made]

    def right(self, index: int, votes: Sequence[Vote]) -> dict[str, float]:
        """Return lm-eval's verdict on a row by metric; of perplexities, which are none, nothing."""
        answers = [(vote.likelihood, vote.greedy) for vote in votes]
        found = self._task.process_results(self._documents[index], answers)
        return {name: float(found[name]) for name in ("acc", "acc_norm") if name in found}

    def votes(self, model: Any, indices: Sequence[int]) -> list[tuple[Vote, ...]]:
        """Return what a model of `wrapped` says to the requests of some rows."""
        requests = [self.requests(index) for index in indices]
        answers = iter(model.loglikelihood([r for each in requests for r in each], True))
        return [tuple(Vote(*map(_plain, next(answers))) for _ in each) for each in requests]


def wrapped(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return a model in memory as lm-eval sees it; the model itself is left as it is."""
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]

    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        device=str(model.device),
        batch_size=BATCH_SIZE,
        softmax_dtype=torch.float32,
    )


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
