"""A recipe in a link: short, exact, and from anywhere."""

from __future__ import annotations

import base64
import json
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning_core.errors import PrunescopeError
from pruning_core.recipe import Calibration, Pattern, Recipe, Scoring, SiteKey, SiteKind
from pruning_core.recipe_link import LONGEST, decode, encode
from pruning_core.repair import Repair

SITES = [SiteKey(layer, kind) for layer in range(32) for kind in SiteKind]


def recipe(layers: int = 32) -> Recipe:
    draw = random.Random(0)
    sites = [SiteKey(layer, kind) for layer in range(layers) for kind in SiteKind]
    scoring = Scoring("hybrid", (("steps", 300),), Calibration("c4", 128, 2048, 7))
    base = Recipe("meta-llama/Llama-3.1-8B-Instruct@0e9e39f249a16976918f6564b8830bc894c89659", "f")
    return Recipe(
        base.model, "0123456789abcdef", scoring, locks=frozenset(sites[::7])
    ).with_sparsity({site: draw.random() for site in sites})


LISTED = {"estimator": "hybrid", "params": {"steps": [300]}}


def pack(content: bytes) -> str:
    return "1." + base64.urlsafe_b64encode(zlib.compress(content)).decode().rstrip("=")


def test_thirty_two_layers_with_a_sparsity_each_stay_under_two_kilobytes() -> None:
    link = encode(recipe())
    assert len({share for _, share in recipe().sparsity}) == 64
    assert len(link) < 2000
    assert decode(link) == recipe()
    assert decode(link).digest == recipe().digest


def test_two_hundred_layers_fit() -> None:
    assert decode(encode(recipe(200))) == recipe(200)


@given(
    st.dictionaries(st.sampled_from(SITES), st.floats(0, 1)),
    st.frozensets(st.sampled_from(SITES)),
    st.sampled_from(["structured", "unstructured", "2:4"]),
    st.sampled_from(["none", "bias", "ridge:damping=0.3,windows=9"]).map(Repair.parse),
    st.text(min_size=1).filter(lambda text: text.isprintable()),
)
def test_round_trip(
    sparsity: dict[SiteKey, float],
    locks: frozenset[SiteKey],
    pattern: str,
    repair: Repair,
    model: str,
) -> None:
    before = Recipe(model, "abc", locks=locks, pattern=Pattern.parse(pattern), repair=repair)
    before = before.with_sparsity(sparsity)
    text = encode(before)
    assert decode(text) == before
    assert decode(f" {text}\n") == before
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_a_recipe_that_fits_in_no_link_is_refused() -> None:
    draw = random.Random(0)
    name = "".join(chr(draw.randrange(33, 0x2FFF)) for _ in range(LONGEST))
    with pytest.raises(PrunescopeError, match="save it as a file"):
        encode(Recipe(name, "f"))
    with pytest.raises(PrunescopeError, match="save it as a file"):
        encode(Recipe("x" * 500_000, "f"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "1.", "1", "2." + encode(recipe())[2:], encode(recipe())[2:], "1.!!!!", "1.ä"),
        *(encode(recipe())[:-10], encode(recipe()) + "AAAA", "1.\0", "1." + "A" * LONGEST),
        *(pack(b""), pack(b"\xff"), pack(b"[]"), pack(b"null"), pack(b"{}"), pack(b"[" * 100_000)),
        pack(b'{"format": "prunescope-recipe/1"}'),
        pack(json.dumps({**recipe().as_dict(), "repair": []}).encode()),
        pack(json.dumps({**recipe().as_dict(), "scoring": LISTED}).encode()),
        pack(json.dumps({**recipe().as_dict(), "sparsity": {"0": {"mlp": 2}}}).encode()),
        pack(json.dumps({**recipe().as_dict(), "sparsity": {"9" * 5000: {"mlp": 0}}}).encode()),
    ],
    ids=range(22),
)
def test_what_is_no_link_is_a_sentence(text: str) -> None:
    with pytest.raises(PrunescopeError) as raised:
        decode(text)
    assert str(raised.value).endswith(".")


def test_a_text_does_not_unfold_to_more_than_a_recipe_needs() -> None:
    bomb = pack(b" " * 10_000_000)
    assert len(bomb) < LONGEST
    tracemalloc.start()
    with pytest.raises(PrunescopeError, match="too much"):
        decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@given(st.text())
def test_any_text_is_a_recipe_or_a_sentence(text: str) -> None:
    for given_text in (text, "1." + text):
        with pytest.raises(PrunescopeError):
            decode(given_text)


def test_random_damage_is_a_recipe_or_a_sentence() -> None:
    link = encode(recipe())
    draw = random.Random(0)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    refused = 0
    for _ in range(500):
        damaged = list(link)
        damaged[draw.randrange(len(link))] = draw.choice(letters)
        try:
            decode("".join(damaged))
        except PrunescopeError:
            refused += 1
    assert refused > 450
