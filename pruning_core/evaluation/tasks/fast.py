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
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from pruning_core.evaluation.tasks.definitions import Vote
from pruning_core.evaluation.tasks.encoding import Encoded
from pruning_core.evaluation.tasks.likelihoods import (
    Wanted,
    collect,
    only_at,
    padded,
    tokens_at_once,
    total,
)


def batches(model: PreTrainedModel, questions: Sequence[Encoded]) -> list[list[Encoded]]:
    """Return questions in batches of similar length, always the same for the same questions."""
    room = tokens_at_once(model)
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
        ids, lengths = padded(shared)
        places = torch.arange(ids.shape[1]).expand_as(ids)
        logits = _logits(model, ids, places, beginnings, cache)
        collect(logits, beginnings, found)
    if answers:
        ids, own = padded([rest for *_, rest in answers])
        places = torch.arange(ids.shape[1]).clamp_max(own[:, None] - 1)
        mask = None
        if cache is not None:
            owners = torch.tensor([place for place, _, _ in answers])
            before = lengths[owners, None]
            seen = _deal(cache, owners, before)
            mask = torch.cat([seen, torch.arange(ids.shape[1]) < own[:, None]], dim=1)
            places = places + before
        logits = _logits(model, ids, places, endings, cache, mask)
        collect(logits, endings, found)
    return [
        tuple(total(found[place, number]) for number in range(len(question.rows)))
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


def _wanted(batch: Sequence[Encoded]) -> tuple[list[Wanted], list[Wanted]]:
    """Return the logit rows that are needed of the beginnings and of the endings."""
    beginnings, endings = [], []
    lines = {(place, number): line for line, (place, number, _) in enumerate(_answers(batch))}
    for place, question in enumerate(batch):
        for number, row in enumerate(question.rows):
            for at in range(len(row.ids) - row.scored, len(row.ids)):
                column, owner, token = at - 1, (place, number), row.ids[at]
                if column < question.shared:
                    beginnings.append(Wanted(place, column, owner, token))
                else:
                    line, after = lines[owner], column - question.shared
                    endings.append(Wanted(line, after, owner, token))
    return beginnings, endings


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
    wanted: Sequence[Wanted],
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
    with only_at(model, wanted):
        return model(
            input_ids=ids.to(device), past_key_values=cache, use_cache=cache is not None, **given
        ).logits[0]
