"""Likelihoods of answers, quickly: what the answers of a question share is read once.

All requests of a question begin alike, mostly with the whole context. That beginning goes through
the model once and stays in the key/value cache; then all answers go through together, each on a
copy of it. Logits are made only where a continuation is scored. All padding is on the right, where
nothing sees it; in the cache it is moved to the left and masked, so that none stands between two
tokens of a text. In exact arithmetic the result is that of one request at a time; a test holds it
against lm-eval's.

The model's own forward does all of it, so every family and every plan is measured as it runs.
Models that bring their own code may keep their cache in a way of their own: they share nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from pruning_core.evaluation.tasks.definitions import Vote
from pruning_core.evaluation.tasks.encoding import Encoded

_BATCH_TOKENS = {"cpu": 1024}
"""Tokens that go through the model at once, padding included: enough to fill its matrix units."""

_BATCH_TOKENS_ELSEWHERE = 16384

_LOGIT_ROWS = 128
"""Rows of logits that are held in fp32 at a time."""


@dataclass(frozen=True)
class _Wanted:
    """A logit row that is needed: where it is made, and which token it should predict for whom."""

    line: int
    column: int
    owner: tuple[int, int]
    token: int


def batches(model: PreTrainedModel, questions: Sequence[Encoded]) -> list[list[Encoded]]:
    """Return questions in batches of similar length, always the same for the same questions."""
    room = _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
    if not type(model).__module__.startswith("transformers."):
        questions = [replace(question, shared=0) for question in questions]
    ordered = sorted(questions, key=lambda q: (q.shared == 0, -q.shared, -q.cost, q.index))
    found: list[list[Encoded]] = []
    for question in ordered:
        if found and _fits([*found[-1], question], room):
            found[-1].append(question)
        else:
            found.append([question])
    return found


@torch.no_grad()
def votes(model: PreTrainedModel, batch: Sequence[Encoded]) -> list[tuple[Vote, ...]]:
    """Return what a model says to each request of each question of one batch of `batches`."""
    found: dict[tuple[int, int], list[Vote]] = {
        (place, number): []
        for place, question in enumerate(batch)
        for number in range(len(question.rows))
    }
    beginnings, endings = _wanted(batch)
    answers = _answers(batch)
    cache = None
    if any(question.shared for question in batch):
        cache = DynamicCache() if answers else None
        shared = [question.rows[0].ids[: question.shared] for question in batch]
        ids, lengths = _padded(shared)
        places = torch.arange(ids.shape[1]).expand_as(ids)
        logits = _logits(model, ids, places, beginnings, cache)
        _collect(logits, beginnings, found)
    if answers:
        ids, own = _padded([rest for *_, rest in answers])
        places = torch.arange(ids.shape[1]).clamp_max(own[:, None] - 1)
        mask = None
        if cache is not None:
            owners = torch.tensor([place for place, _, _ in answers])
            before = lengths[owners, None]
            seen = _deal(cache, owners, before)
            mask = torch.cat([seen, torch.arange(ids.shape[1]) < own[:, None]], dim=1)
            places = places + before
        logits = _logits(model, ids, places, endings, cache, mask)
        _collect(logits, endings, found)
    return [
        tuple(_sum(found[place, number]) for number in range(len(question.rows)))
        for place, question in enumerate(batch)
    ]


def _fits(batch: Sequence[Encoded], room: int) -> bool:
    if len({question.shared == 0 for question in batch}) > 1:
        return False
    widest = max(question.shared for question in batch)
    rest = [len(row.read) - question.shared for question in batch for row in question.rows]
    return len(batch) * widest + sum(length > 0 for length in rest) * max(rest) <= room


def _answers(batch: Sequence[Encoded]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return what is left to read of each row: the question's place, the row's number, tokens."""
    return [
        (place, number, row.read[question.shared :])
        for place, question in enumerate(batch)
        for number, row in enumerate(question.rows)
        if len(row.read) > question.shared
    ]


def _wanted(batch: Sequence[Encoded]) -> tuple[list[_Wanted], list[_Wanted]]:
    """Return the logit rows that are needed of the beginnings and of the endings."""
    beginnings, endings = [], []
    lines = {(place, number): line for line, (place, number, _) in enumerate(_answers(batch))}
    for place, question in enumerate(batch):
        for number, row in enumerate(question.rows):
            for at in range(len(row.ids) - row.scored, len(row.ids)):
                column, owner, token = at - 1, (place, number), row.ids[at]
                if column < question.shared:
                    beginnings.append(_Wanted(place, column, owner, token))
                else:
                    line, after = lines[owner], column - question.shared
                    endings.append(_Wanted(line, after, owner, token))
    return beginnings, endings


def _padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return texts as one tensor, padded on the right, [texts, tokens], and their lengths."""
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
    for line, text in enumerate(texts):
        ids[line, : len(text)] = torch.tensor(text)
    return ids, lengths


def _deal(cache: DynamicCache, owners: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Give each answer a copy of its question's cache, with the padding moved to the left.

    Args:
        cache: of the questions, padded on the right.
        owners: the question of each answer, [answers].
        lengths: tokens of that question, [answers, 1].

    Returns:
        which places of the cache are text, [answers, places].
    """
    width = cache.get_seq_length()
    places = torch.arange(width) - (width - lengths)
    for layer in cache.layers:
        device = layer.keys.device
        source = places.clamp_min(0).to(device)[:, None, :, None]
        layer.keys = layer.keys[owners.to(device)].take_along_dim(source, dim=2)
        layer.values = layer.values[owners.to(device)].take_along_dim(source, dim=2)
    return places >= 0


def _logits(
    model: PreTrainedModel,
    ids: torch.Tensor,
    places: torch.Tensor,
    wanted: Sequence[_Wanted],
    cache: DynamicCache | None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the logit rows that are wanted, [wanted, vocabulary]."""
    device = model.device
    given: dict[str, Any] = {}
    if mask is not None:
        given["attention_mask"] = mask.long().to(device)
    # ALiBi has no positions but those that the mask tells.
    if "position_ids" in inspect.signature(model.forward).parameters:
        given["position_ids"] = places.to(device)
    with _only_at(model, wanted):
        return model(
            input_ids=ids.to(device), past_key_values=cache, use_cache=cache is not None, **given
        ).logits[0]


@contextmanager
def _only_at(model: PreTrainedModel, wanted: Sequence[_Wanted]) -> Iterator[None]:
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


def _collect(
    logits: torch.Tensor, wanted: Sequence[_Wanted], found: dict[tuple[int, int], list[Vote]]
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


def _sum(tokens: Sequence[Vote]) -> Vote:
    return Vote(sum(each.likelihood for each in tokens), all(each.greedy for each in tokens))
