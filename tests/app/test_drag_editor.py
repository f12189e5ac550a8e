"""The drag editor's Python: what it sends, and what it believes of what comes back."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from typing import Any

import numpy as np
import pytest

from app.components.drag_editor import Edit, EditReader, SiteShape, payload, stamp
from pruning_core.recipe import SiteKey, SiteKind

ATTENTION, MLP, LOCKED = (
    SiteKey(0, SiteKind.ATTENTION),
    SiteKey(0, SiteKind.MLP),
    SiteKey(1, SiteKind.MLP),
)
STEPS = (0.0, 1 / 3, 2 / 3)
NO_BINS = np.zeros(0, np.uint8)

SITES = [
    SiteShape(ATTENTION, 0.0, False, STEPS, np.array([255, 9, 0], np.uint8)),
    SiteShape(MLP, 0.25, False, (), NO_BINS),
    SiteShape(LOCKED, 0.5, True, (), NO_BINS),
]


def sent(n: int = 1, *, editor: str = "a", final: bool = True, **parts: Any) -> dict[str, Any]:
    """Return a component's value as the browser makes it."""
    return {"edit": {"editor": editor, "n": n, "final": final, "revision": "r", **parts}}


def read(**parts: Any) -> Edit | None:
    return EditReader(SITES, None).read(sent(**parts))


def test_the_payload_is_json_and_carries_the_bins() -> None:
    data = payload(SITES, revision="r1", layers=2, height=300, seen=("a", 4))
    told = json.loads(json.dumps(data))
    assert (told["revision"], told["layers"], told["height"]) == ("r1", 2, 300)
    assert told["seen"] == {"editor": "a", "n": 4}
    assert [lane["kind"] for lane in told["lanes"]] == ["attention", "mlp"]
    first, second, third = told["sites"]
    assert list(b64decode(first["importance"])) == [255, 9, 0]
    assert first["steps"] == list(STEPS)
    assert second["importance"] == ""
    assert (third["key"], third["layer"], third["lane"]) == ("1.mlp", 1, "mlp")
    assert (third["sparsity"], third["locked"]) == (0.5, True)


def test_a_lane_without_sites_is_left_out() -> None:
    data = payload(SITES[1:], revision="r", layers=2, height=300, seen=None)
    assert [lane["title"] for lane in data["lanes"]] == ["MLP"]
    assert data["seen"] is None


@pytest.mark.parametrize("final", [True, False])
def test_values_that_changed_come_through(final: bool) -> None:
    edit = read(final=final, sparsity={"0.mlp": 0.4, "0.attention": 2 / 3})
    assert edit == Edit({MLP: 0.4, ATTENTION: 2 / 3}, frozenset(), final)


def test_what_is_as_it_was_is_no_change() -> None:
    assert read(sparsity={"0.mlp": 0.25}) == Edit({}, frozenset(), True)


def test_attention_snaps_to_a_step_it_has() -> None:
    assert read(sparsity={"0.attention": 0.4}) == Edit({ATTENTION: 1 / 3}, frozenset(), True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 1.1, "0.5", None, True, [0.5]])
def test_what_is_no_sparsity_is_left_out(bad: object) -> None:
    edit = read(sparsity={"0.mlp": bad, "0.attention": 1 / 3})
    assert edit == Edit({ATTENTION: 1 / 3}, frozenset(), True)


def test_sites_that_were_not_drawn_and_locked_ones_are_left_out() -> None:
    edit = read(
        sparsity={"7.mlp": 0.5, "1.mlp": 0.9, "__class__": 0.5}, locks={"7.mlp": True, "0.mlp": 1}
    )
    assert edit == Edit({}, frozenset(), True)


def test_locks_are_flipped_where_they_differ() -> None:
    edit = read(locks={"0.mlp": True, "1.mlp": True, "0.attention": False})
    assert edit == Edit({}, frozenset({MLP}), True)


def test_a_site_may_move_before_it_is_locked_and_after_it_is_unlocked() -> None:
    edit = read(sparsity={"0.mlp": 0.4, "1.mlp": 0.6}, locks={"0.mlp": True, "1.mlp": False})
    assert edit == Edit({MLP: 0.4, LOCKED: 0.6}, frozenset({MLP, LOCKED}), True)


def test_no_edit_is_read_twice() -> None:
    reader = EditReader(SITES, ("a", 1))
    assert reader.read(sent(1, sparsity={"0.mlp": 0.4})) is None
    assert reader.read(sent(2, sparsity={"0.mlp": 0.4})) is not None
    assert reader.read(sent(2, sparsity={"0.mlp": 0.4})) is None
    assert reader.read(sent(2, editor="b", sparsity={"0.mlp": 0.4})) is not None


def test_edits_before_the_next_drawing_do_not_flip_a_lock_back() -> None:
    reader = EditReader(SITES, None)
    first = reader.read(sent(1, locks={"0.mlp": True}))
    second = reader.read(sent(2, locks={"0.mlp": True}, sparsity={"0.attention": 1 / 3}))
    third = reader.read(sent(3, locks={"0.mlp": False}))
    assert first == third == Edit({}, frozenset({MLP}), True)
    assert second == Edit({ATTENTION: 1 / 3}, frozenset(), True)


def test_a_site_that_went_back_before_the_next_drawing_is_told_so() -> None:
    reader = EditReader(SITES, None)
    assert reader.read(sent(1, final=False, sparsity={"0.mlp": 0.4})) == Edit(
        {MLP: 0.4}, frozenset(), False
    )
    assert reader.read(sent(2, sparsity={"0.mlp": 0.25})) == Edit({MLP: 0.25}, frozenset(), True)


NOT_EDITS = [
    None,
    "edit",
    {},
    {"edit": None},
    {"edit": {"n": 1}},
    {"edit": {"editor": 3, "n": 1}},
    {"edit": {"editor": "a", "n": 1.5}},
    {"edit": {"editor": "a", "n": True}},
]


@pytest.mark.parametrize("value", NOT_EDITS)
def test_what_is_no_edit_is_none(value: object) -> None:
    assert stamp(value) is None
    assert EditReader(SITES, None).read(value) is None


@pytest.mark.parametrize("parts", [{"sparsity": [1]}, {"locks": "all"}, {"final": "yes"}])
def test_parts_of_a_wrong_kind_say_nothing(parts: dict[str, object]) -> None:
    edit = EditReader(SITES, None).read({"edit": {"editor": "a", "n": 1, **parts}})
    assert edit == Edit({}, frozenset(), False)
