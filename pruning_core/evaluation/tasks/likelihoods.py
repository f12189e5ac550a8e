"""The likelihood of a continuation out of logits: which rows are made, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from pruning_core.evaluation.tasks.definitions import Vote

_BATCH_TOKENS = {"cpu": 1024}
_BATCH_TOKENS_ELSEWHERE = 16384

_LOGIT_ROWS = 128
"""Rows of logits that are held in fp32 at a time."""


@dataclass(frozen=True)
class Wanted:
    """A logit row that is needed: where it is made, and which token it should predict for whom."""

    line: int
    column: int
    owner: tuple[int, int]
    token: int


def tokens_at_once(model: PreTrainedModel) -> int:
    """Return how many tokens, padding included, fill the matrix units of a model's device."""
    return _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)


def padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return texts as one tensor, padded on the right, [texts, tokens], and their lengths."""
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for line, text in enumerate(texts):
        ids[line, : len(text)] = torch.tensor(text)
    return ids, lengths


@contextmanager
def only_at(model: PreTrainedModel, wanted: Sequence[Wanted]) -> Iterator[None]:
    """Let the head see only the hidden states that are wanted, as one line of them."""
    lines = torch.tensor([each.line for each in wanted], dtype=torch.long)
    columns = torch.tensor([each.column for each in wanted], dtype=torch.long)

    def select(_module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        hidden = args[0]
        return (hidden[lines.to(hidden.device), columns.to(hidden.device)][None],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def collect(
    logits: torch.Tensor, wanted: Sequence[Wanted], found: dict[tuple[int, int], list[Vote]]
) -> None:
    """Score rows of logits, [wanted, vocabulary], in fp32 whatever the model's dtype."""
    for start in range(0, len(wanted), _LOGIT_ROWS):
        some = wanted[start : start + _LOGIT_ROWS]
        rows = logits[start : start + len(some)].float()
        tokens = torch.tensor([each.token for each in some], device=rows.device)
        own = rows.gather(1, tokens[:, None])[:, 0] - rows.logsumexp(-1)
        greedy = rows.argmax(-1) == tokens
        for each, likelihood, hit in zip(some, own.tolist(), greedy.tolist(), strict=True):
            found[each.owner].append(Vote(likelihood, hit))


def total(tokens: Sequence[Vote]) -> Vote:
    """Return the vote on a continuation from those on its tokens."""
    return Vote(sum(each.likelihood for each in tokens), all(each.greedy for each in tokens))
