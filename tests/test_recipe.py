from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Calibration, Pattern, Recipe, Scoring, SiteKey, SiteKind
from pruning_core.repair import Repair, RepairKind

SITE = SiteKey(4, SiteKind.MLP)


def recipe(**changes: object) -> Recipe:
    base = Recipe("demo", "abc", Scoring("fine", (("steps", 3),)), ((SITE, 0.25),))
    return dataclasses.replace(base, locks=frozenset({SITE}), **changes)


repairs = st.sampled_from(["none", "bias", "bias:windows=9", "ridge:damping=0.3,prefix=dense"]).map(
    Repair.parse
)
sites = st.builds(SiteKey, st.integers(0, 200), st.sampled_from(SiteKind))


patterns = st.sampled_from(["structured", "unstructured", "2:4", "1:16"]).map(Pattern.parse)


@given(
    st.dictionaries(sites, st.floats(0, 1)),
    st.frozensets(sites),
    patterns,
    repairs,
)
def test_json_round_trip(
    sparsity: dict[SiteKey, float], locks: frozenset[SiteKey], pattern: Pattern, repair: Repair
) -> None:
    before = Recipe("org/name@main", "abc", locks=locks, pattern=pattern, repair=repair)
    before = before.with_sparsity(sparsity)
    after = Recipe.from_json(before.to_json())
    assert after == before
    assert after.digest == before.digest


def test_digest_answers_to_every_field() -> None:
    digests = {
        recipe().digest,
        recipe(model="other").digest,
        recipe(fingerprint="d").digest,
        recipe(scoring=Scoring("coarse")).digest,
        recipe(scoring=Scoring("fine", calibration=Calibration(seed=1))).digest,
        recipe(sparsity=((SITE, 0.26),)).digest,
        dataclasses.replace(recipe(), locks=frozenset()).digest,
        recipe(pattern=Pattern.parse("unstructured")).digest,
        recipe(pattern=Pattern.parse("2:4")).digest,
        recipe(pattern=Pattern.parse("4:8")).digest,
        recipe(repair=Repair(RepairKind.BIAS)).digest,
        recipe(repair=Repair(RepairKind.RIDGE)).digest,
        recipe(repair=Repair(RepairKind.RIDGE, 0.1)).digest,
        recipe(repair=Repair(RepairKind.RIDGE, prefix="dense")).digest,
    }
    assert len(digests) == 14


def test_with_sparsity_keeps_others_and_drops_zeros() -> None:
    other = SiteKey(0, SiteKind.ATTENTION)
    changed = recipe().with_sparsity({other: 0.5, SITE: 0.0})
    assert changed.sparsity == ((other, 0.5),)
    assert changed.at(SITE) == 0.0


def test_recipe_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe().model = "x"  # type: ignore[misc]


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "half", None, True])
def test_bad_sparsity_is_refused(value: object) -> None:
    values = recipe().as_dict()
    values["sparsity"]["4"]["mlp"] = value
    with pytest.raises(PrunescopeError, match="sparsity"):
        Recipe.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "red"}, "colour"),
        ({"format": "prunescope-recipe/9"}, "format"),
        ({"sparsity": {"4": {"mlps": 0.1}}}, "not a site"),
        ({"sparsity": [0.1]}, "JSON object"),
        ({"scoring": {"estimator": "fine", "calibration": {"windows": 0}}}, "windows"),
        ({"scoring": {"estimator": "fine", "calibration": {"lenght": 8}}}, "Did you mean 'length'"),
        ({"pattern": "blocks"}, "pattern"),
        ({"model": ""}, "model"),
        ({"locks": ["4.nose"]}, "not a site"),
    ],
)
def test_bad_fields_are_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(PrunescopeError, match=says):
        Recipe.from_json(json.dumps({**recipe().as_dict(), **change}))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_not_a_recipe(text: str) -> None:
    with pytest.raises(PrunescopeError):
        Recipe.from_json(text)


@pytest.mark.parametrize("text", ["2:2", "3:2", "0:4", "2:", ":4", "-1:4", "2:4:8", "dense", ""])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(PrunescopeError, match="is not a pattern"):
        Pattern.parse(text)
    with pytest.raises(PrunescopeError, match="is not a pattern"):
        Recipe.from_dict({**recipe().as_dict(), "pattern": text})
