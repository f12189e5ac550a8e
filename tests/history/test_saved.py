"""One saved run: what is read of it, and that nothing in a file is trusted."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.history.saved import (
    Pieces,
    clean_name,
    key_recipe_of,
    parse,
    recipe_of,
    saved_run,
)
from pruning_core.recipe import Recipe, Scoring
from tests.history import run_values
from tests.history.run_values import FINGERPRINT, recipe, values

ID = "0006123456789-0badcafe"
ELDER = "0006123456788-0badcafe"


def whole(**changes: Any) -> dict[str, Any]:
    """Return the values of a saved run; changes are those of `values`."""
    history = {
        "id": ID,
        "lineage": [ELDER],
        "name": "first try",
        "created": "2026-11-25T12:00:00.000+00:00",
        "predicted_loss": 3.25,
    }
    return {**values(**changes), "history": history}


def test_what_a_page_needs_is_read() -> None:
    run = saved_run(whole(parameters=81, perplexity=24.5, leaked=True))
    assert (run.id, run.lineage, run.name) == (ID, (ELDER,), "first try")
    assert run.created == datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert (run.recipe, run.digest, run.fingerprint) == (recipe(), recipe().digest, FINGERPRINT)
    assert (run.perplexity, run.dense_perplexity, run.accuracy) == (24.5, 20.0, 0.4)
    assert (run.parameters, run.dense_parameters, run.sparsity) == (81, 100, 0.2)
    assert run.leaked
    assert run.predicted_loss == 3.25
    where = run.conditions
    assert (where.protocol, where.limit, where.device, where.dtype) == (
        *("probe", 8, "cpu", "float32"),
    )


def test_an_overflow_is_infinite() -> None:
    assert saved_run(whole(perplexity=None)).perplexity == math.inf


def test_a_run_without_a_name_is_called_by_the_end_of_its_id() -> None:
    run = saved_run(whole())
    assert run.label == "first try"
    assert run.renamed("").label == "run cafe"


def test_a_new_name_is_in_the_values_too_and_the_old_run_stays() -> None:
    old = saved_run(whole())
    new = old.renamed(" a\tbetter\nname ")
    assert new.name == new.values["history"]["name"] == "a better name"
    assert old.name == old.values["history"]["name"] == "first try"
    assert new.perplexity == old.perplexity


@given(st.text(max_size=80))
def test_a_name_is_one_line_that_every_output_takes(name: str) -> None:
    clean = clean_name(name)
    assert clean.splitlines() in ([], [clean])
    clean.encode()
    assert clean_name(clean) == clean


def test_letters_of_all_scripts_and_pictures_stay_in_a_name() -> None:
    name = "größe 大きさ 👩\u200d🔬"
    assert clean_name(name) == name
    with pytest.raises(PrunescopeError, match="at most 80 characters; this one has 81"):
        clean_name("x" * 81)


TEXTS = [
    *(("device",), ("dtype",), ("protocol", "name"), ("protocol", "title"), ("protocol", "sha256")),
    ("history", "name"),
]
PLACES = [
    *(
        ("format",),
        ("fingerprint",),
        ("recipe",),
        ("leaked",),
        ("protocol",),
        ("protocol", "limit"),
    ),
    *(("dense",), ("dense", "cost"), ("dense", "cost", "parameters"), ("dense", "quality")),
    *(("pruned",), ("pruned", "cost", "parameters"), ("pruned", "quality", "accuracy")),
    *(("pruned", "sparsity_of_prunable"), ("pruned", "quality", "perplexity")),
    *(("recipe", "model"), ("recipe", "fingerprint"), ("history",), ("history", "id")),
    *(("history", "lineage"), ("history", "created"), ("history", "predicted_loss"), *TEXTS),
]


@pytest.mark.parametrize("path", PLACES, ids=".".join)
@pytest.mark.parametrize("bad", [{}, [[]], "", True, -1, -1e308], ids=repr)
def test_a_value_of_another_kind_is_a_sentence(path: tuple[str, ...], bad: object) -> None:
    run = whole()
    place = run
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    if path[-1] not in ("limit", "predicted_loss"):
        with pytest.raises(PrunescopeError):
            saved_run(run)
    place[path[-1]] = bad
    if (path in TEXTS and bad == "") or (path[-1] == "leaked" and bad is True):
        saved_run(run)
        return
    if path[-1] == "predicted_loss" and bad == -1:
        assert saved_run(run).predicted_loss == -1
        return
    with pytest.raises(PrunescopeError):
        saved_run(run)


@pytest.mark.parametrize("id", ["../../x", "0006123456789-0badcafe/", "", "x"])
def test_an_id_that_could_lead_elsewhere_is_refused(id: str) -> None:
    run = whole()
    run["history"]["id"] = id
    with pytest.raises(PrunescopeError, match="not the id of a run"):
        saved_run(run)
    run = whole()
    run["history"]["lineage"] = [id]
    with pytest.raises(PrunescopeError, match="not the id of a run"):
        saved_run(run)


def test_a_recipe_for_other_weights_than_were_measured_is_refused() -> None:
    with pytest.raises(PrunescopeError, match="another model"):
        saved_run({**whole(), "fingerprint": "fedcba9876543210"})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1, NaN]", "[Infinity]", "[1e999]", '"\\ud800"', '{"\\uDC00": 1}'),
        *("[" * 100_000, "9" * 5_000),
    ],
    ids=range(9),
)
def test_what_could_not_be_written_back_is_not_read(text: str) -> None:
    with pytest.raises(PrunescopeError):
        parse(text)


def test_a_character_of_two_halves_is_read() -> None:
    assert parse('"\\ud83d\\udd2c"') == "🔬"


def test_random_damage_is_read_right_or_a_sentence() -> None:
    text = json.dumps(whole())
    draw = random.Random(0)
    refused = 0
    for _ in range(2000):
        damaged = list(text)
        for _ in range(draw.randrange(1, 4)):
            damaged[draw.randrange(len(text))] = chr(draw.randrange(32, 127))
        try:
            saved_run(parse("".join(damaged)))
        except PrunescopeError:
            refused += 1
    assert 500 < refused < 2000


def test_a_recipe_comes_from_a_recipe_a_run_and_a_saved_run() -> None:
    for form in (recipe().as_dict(), values(), whole()):
        assert recipe_of(json.loads(json.dumps(form))) == recipe()
        assert key_recipe_of(form) == recipe()


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    table = Recipe("m", FINGERPRINT, Scoring("fine")).as_dict()
    change(table)
    return table


@pytest.mark.parametrize(
    "form",
    [
        *(None, [], 3, "recipe", {}, {"format": "prunescope-run/1"}, {"format": "prunescope-x/1"}),
        changed(lambda table: table.update(repair=[])),
        changed(lambda table: table.update(pattern="2:" + "9" * 5000)),
        changed(lambda table: table.update(locks=["9" * 5000 + ".mlp"])),
        changed(lambda table: table["scoring"].update(params={"steps": [1]})),
        changed(lambda table: table["scoring"].update(params={"steps": {}})),
    ],
    ids=range(12),
)
def test_what_holds_no_recipe_is_a_sentence(form: object) -> None:
    with pytest.raises(PrunescopeError):
        key_recipe_of(form)


def test_what_windows_and_tasks_measured_is_there() -> None:
    run = whole()
    assert saved_run(run).pieces is None
    assert saved_run(run).tasks == {}
    run["pruned"]["quality"]["pieces"] = {"loss": [3.5, 2], "tokens": [255, 10]}
    run["tasks"] = {"piqa": run_values.task(0.4)}
    saved = saved_run(run)
    assert saved.pieces == Pieces((3.5, 2.0), (255, 10))
    assert saved.dense_pieces is None
    assert saved.tasks["piqa"]["pruned"]["acc"]["value"] == 0.4


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        {},
        {"loss": [], "tokens": []},
        {"loss": [1.0], "tokens": [1, 2]},
        {"loss": ["1"], "tokens": [1]},
        {"loss": [-1.0], "tokens": [1]},
        {"loss": [1.0], "tokens": [1.5]},
        {"loss": [1.0, 2.0], "tokens": [255, 0]},
        {"loss": 1.0, "tokens": 1},
    ],
    ids=repr,
)
def test_pieces_that_none_measured_are_refused(pieces: object) -> None:
    run = whole()
    run["pruned"]["quality"]["pieces"] = pieces
    with pytest.raises(PrunescopeError, match="no run has that"):
        saved_run(run)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        (("title",), 1),
        (("chance",), 2),
        (("items",), -1),
        (("pruned",), {}),
        (("delta",), {"other": {}}),
        (("pruned", "acc", "value"), "much"),
        (("delta", "acc", "low"), -7),
    ],
    ids=repr,
)
def test_tasks_that_none_asked_are_refused(path: tuple[str, ...], bad: object) -> None:
    run = whole()
    run["tasks"] = {"piqa": run_values.task()}
    place = run["tasks"]["piqa"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = bad
    with pytest.raises(PrunescopeError, match="no run has that"):
        saved_run(run)
