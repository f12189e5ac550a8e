"""One saved run: what ``prune --json`` writes, and where it stands in the history.

Every value of a file is checked when it is read, so that whoever draws it need not.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Recipe

FORMAT = "prunescope-run/1"
"""The format of a run as plain values."""

LONGEST_NAME = 80
"""Characters in the name of a run."""

LONGEST_LINEAGE = 256
"""Ancestors that a run names, the nearest of them: more only matter once all these are deleted."""

_ID = re.compile(r"[0-9a-f]{13}-[0-9a-f]{8}")
_FINGERPRINT = re.compile(r"[0-9A-Za-z_-]{1,128}")
_UNPRINTED = ("Cc", "Cs")  # Unicode's categories of control characters and of half characters
_LARGEST_COUNT = 2**63
_LARGEST_NUMBER = 1e300


@dataclass(frozen=True)
class Conditions:
    """How and where a run was measured: only numbers of equal conditions can be compared.

    Attributes:
        protocol: its name.
        title: the protocol's, as on screen.
        limit: at most this many windows; None for all.
        text: the sha256 of the measured text.
        device, dtype: where the model was and in which number format.
    """

    protocol: str
    title: str
    limit: int | None
    text: str
    device: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.title} · {self.dtype} on {self.device}"


@dataclass(frozen=True)
class Pieces:
    """What each window of a measurement was worth, in their order.

    Attributes:
        losses: nats per token.
        tokens: how many were predicted.
    """

    losses: tuple[float, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class SavedRun:
    """A run in the history of a model. Equal where id, lineage and name are.

    Attributes:
        id: unique, and later for later runs.
        lineage: ids of its ancestors, from the root to the parent. A deleted one stays named: the
            parent is the last that is still there.
        name: what the user calls it; may be empty.
        created: when it was saved, with its timezone.
        values: the run as plain values, as in its file. Not to be changed.
        recipe: what was pruned.
        conditions: how and where it was measured.
        perplexity, dense_perplexity: infinite where it overflowed.
        accuracy: share of the tokens that were predicted right.
        parameters, dense_parameters: of the whole model; weights that became zero do not count.
        sparsity: fraction of the prunable parameters that left.
        leaked: whether calibration and measurement text overlap: then the perplexity flatters.
        predicted_loss: what was predicted before it was measured, nats per token, if anything was.
        pieces, dense_pieces: window by window, None where that was not kept or a window overflowed.
        tasks: what ``evaluate`` reports of each task that was asked, by its name.
    """

    id: str
    lineage: tuple[str, ...]
    name: str
    created: datetime
    values: Mapping[str, Any] = field(compare=False, repr=False)
    recipe: Recipe = field(compare=False, repr=False)
    conditions: Conditions = field(compare=False, repr=False)
    perplexity: float = field(compare=False)
    dense_perplexity: float = field(compare=False)
    accuracy: float = field(compare=False, repr=False)
    parameters: int = field(compare=False)
    dense_parameters: int = field(compare=False, repr=False)
    sparsity: float = field(compare=False)
    leaked: bool = field(compare=False, repr=False)
    predicted_loss: float | None = field(compare=False, repr=False)
    pieces: Pieces | None = field(compare=False, repr=False)
    dense_pieces: Pieces | None = field(compare=False, repr=False)
    tasks: Mapping[str, Mapping[str, Any]] = field(compare=False, repr=False)

    @property
    def label(self) -> str:
        """What to call it: its name, or the end of its id."""
        return self.name or f"run {self.id[-4:]}"

    @property
    def fingerprint(self) -> str:
        """What identifies the model's weights."""
        return self.recipe.fingerprint

    @cached_property
    def digest(self) -> str:
        """The recipe's digest."""
        return self.recipe.digest

    def renamed(self, name: str) -> SavedRun:
        """Return a copy under another name; the same errors as `clean_name`."""
        name = clean_name(name)
        history = {**self.values["history"], "name": name}
        return replace(self, name=name, values={**self.values, "history": history})

    def asked(self, tasks: Mapping[str, Mapping[str, Any]]) -> SavedRun:
        """Return a copy with the tasks that were asked since; the same errors as `saved_run`."""
        return saved_run({**self.values, "tasks": {**self.tasks, **tasks}})


def saved_run(values: object) -> SavedRun:
    """Return a run from the plain values of its file.

    Raises:
        PrunescopeError: if they are no saved run.
    """
    run = _table(values, "run")
    if run.get("format") != FORMAT:
        raise PrunescopeError(f"Its format is {_short(run.get('format'))}, not {FORMAT!r}.")
    history = _table(run.get("history"), "history")
    pruned, dense = _table(run.get("pruned"), "pruned"), _table(run.get("dense"), "dense")
    quality = _table(pruned.get("quality"), "pruned.quality")
    dense_quality = _table(dense.get("quality"), "dense.quality")
    recipe = key_recipe_of(run.get("recipe"))
    if _text(run, "fingerprint") != recipe.fingerprint:
        raise PrunescopeError("Its recipe is for another model than the one that was measured.")
    check_fingerprint(recipe.fingerprint)
    leaked = run.get("leaked")
    if not isinstance(leaked, bool):
        _wrong("leaked", leaked)
    predicted = history.get("predicted_loss")
    return SavedRun(
        id=check_id(history.get("id")),
        lineage=_lineage(history.get("lineage")),
        name=clean_name(_text(history, "name")),
        created=_time(history.get("created")),
        values=run,
        recipe=recipe,
        conditions=_conditions(run),
        perplexity=_perplexity(quality),
        dense_perplexity=_perplexity(dense_quality),
        accuracy=_number(quality, "accuracy", 0, 1),
        parameters=_count(_table(pruned.get("cost"), "pruned.cost"), "parameters"),
        dense_parameters=_count(_table(dense.get("cost"), "dense.cost"), "parameters"),
        sparsity=_number(pruned, "sparsity_of_prunable", 0, 1),
        leaked=leaked,
        predicted_loss=None if predicted is None else _number(history, "predicted_loss"),
        pieces=_pieces(quality),
        dense_pieces=_pieces(dense_quality),
        tasks=_tasks(run),
    )


def parse(text: str) -> object:
    """Return the plain values of a JSON text that this project could have written.

    Raises:
        PrunescopeError: if it is no JSON, or holds numbers, nesting or characters that cannot be
            written back.
    """
    try:
        values: object = json.loads(text, parse_float=_finite, parse_constant=_finite)
        if "\\ud" in text or "\\uD" in text:  # half a character of two, which no output takes
            json.dumps(values, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise PrunescopeError(
            f"It is not valid JSON (line {error.lineno}: {error.msg})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise PrunescopeError(
            "It holds numbers, nesting or characters that no run and no recipe has."
        ) from error
    return values


def recipe_of(values: object) -> Recipe:
    """Return the recipe that plain values are, or that the run that they are carries out.

    Raises:
        PrunescopeError: if there is none, or one that cannot be.
    """
    if isinstance(values, dict) and values.get("format") == FORMAT:
        values = values.get("recipe")
    if not isinstance(values, dict):
        raise PrunescopeError(
            "There is no recipe in it. Take a file that the app or --save-recipe saved, or that "
            "prune wrote with --json."
        )
    try:
        return Recipe.from_dict(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise _no_recipe() from error


def key_recipe_of(values: object) -> Recipe:
    """Return the recipe that `recipe_of` finds, if it can be a key; the same errors.

    Parameters that are lists are left to the estimator to refuse, whose sentence is the better one:
    but it is not asked where nothing is carried out.
    """
    recipe = recipe_of(values)
    try:
        hash(recipe)
    except TypeError as error:
        raise _no_recipe() from error
    return recipe


def _no_recipe() -> PrunescopeError:
    return PrunescopeError(
        "The recipe cannot be read: it holds a list, a table or a number where no recipe has one. "
        "Save it again from the app, or with --save-recipe."
    )


def check_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint that can name a folder.

    Raises:
        PrunescopeError: if it cannot.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise PrunescopeError(
            f"{fingerprint!r} is not the fingerprint of a model: it has letters, digits, - and _ "
            "only, as the command runs lists it."
        )
    return fingerprint


def check_id(value: object) -> str:
    """Return the id of a run.

    Raises:
        PrunescopeError: if it is none.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise PrunescopeError(f"{value!r} is not the id of a run, as the command runs lists them.")
    return value


def clean_name(name: str) -> str:
    """Return a name on one line, without characters that do not print.

    Raises:
        PrunescopeError: if it is too long.
    """
    spaced = "".join(
        letter
        for letter in name
        if letter.isspace() or unicodedata.category(letter) not in _UNPRINTED
    )
    clean = " ".join(spaced.split())
    if len(clean) > LONGEST_NAME:
        raise PrunescopeError(
            f"The name of a run has at most {LONGEST_NAME} characters; this one has {len(clean)}."
        )
    return clean


def _conditions(values: Mapping[str, Any]) -> Conditions:
    protocol = _table(values.get("protocol"), "protocol")
    limit = None if protocol.get("limit") is None else _count(protocol, "limit")
    return Conditions(
        _text(protocol, "name"),
        _text(protocol, "title"),
        limit,
        _text(protocol, "sha256"),
        _text(values, "device"),
        _text(values, "dtype"),
    )


def _lineage(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > LONGEST_LINEAGE:
        _wrong("lineage", value)
    return tuple(check_id(ancestor) for ancestor in value)


def _time(value: object) -> datetime:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        _wrong("created", value)
    if time.tzinfo is None:
        _wrong("created", value)
    return time


def _perplexity(quality: Mapping[str, Any]) -> float:
    """Return a perplexity; JSON has no infinity, so a run says null where it overflowed."""
    overflowed = "perplexity" in quality and quality["perplexity"] is None
    return math.inf if overflowed else _number(quality, "perplexity", 0)


def _pieces(quality: Mapping[str, Any]) -> Pieces | None:
    if "pieces" not in quality:
        return None
    pieces = _table(quality["pieces"], "pieces")
    losses, tokens = ([*_list(pieces, name)] for name in ("loss", "tokens"))
    if not losses or len(losses) != len(tokens):
        _wrong("pieces", pieces)
    found = Pieces(
        tuple(_number({"loss": loss}, "loss", 0) for loss in losses),
        tuple(_count({"tokens": count}, "tokens") for count in tokens),
    )
    if 0 in found.tokens:
        raise PrunescopeError("One of its windows scored no token: no run has that.")
    return found


def _tasks(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of a run; every number that is drawn of them is checked."""
    tasks = _table(run.get("tasks", {}), "tasks")
    for name, task in tasks.items():
        task = _table(task, f"tasks.{name}")
        _text(task, "title"), _text(task, "sha256"), _text(task, "scorer")
        _count(task, "items"), _count(task, "of"), _number(task, "chance", 0, 1)
        dense, pruned, delta = (
            _table(task.get(side), side) for side in ("dense", "pruned", "delta")
        )
        if not dense or not dense.keys() == pruned.keys() == delta.keys():
            _wrong(f"tasks.{name}", task)
        for interval in (*dense.values(), *pruned.values(), *delta.values()):
            for end in ("value", "low", "high"):
                if (table := _table(interval, name)).get(end) is not None:
                    _number(table, end, -1, 1)
    return tasks


def _list(table: Mapping[str, Any], name: str) -> list[Any]:
    value = table.get(name)
    if not isinstance(value, list):
        _wrong(name, value)
    return value


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _wrong(what, value)
    return value


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        _wrong(name, value)
    return value


def _number(
    table: Mapping[str, Any], name: str, lowest: float = -math.inf, highest: float = math.inf
) -> float:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _wrong(name, value)
    if not lowest <= value <= highest or abs(value) > _LARGEST_NUMBER:
        _wrong(name, value)
    return float(value)


def _count(table: Mapping[str, Any], name: str) -> int:
    value = table.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST_COUNT:
        _wrong(name, value)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _wrong(what: str, value: object) -> NoReturn:
    raise PrunescopeError(f"Its {what} is {_short(value)}: no run has that.")


def _short(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
