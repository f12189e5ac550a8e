"""The recipe in the address: read once when a tab opens, and true while it is open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from app.results import OnBench
from pruning_core.recipe import Recipe, Scoring, SiteKey, SiteKind
from pruning_core.recipe_link import PARAMETER, decode, encode
from tests.app import tabs
from tests.app.conftest import CALIBRATION

MLP = SiteKey(1, SiteKind.MLP)


@pytest.fixture
def linked(model: OnBench) -> Recipe:
    dense = Recipe(model.ref, model.fingerprint, Scoring("magnitude", (), CALIBRATION))
    return replace(dense.with_sparsity({MLP: 0.5}), locks=frozenset({SiteKey(2, SiteKind.MLP)}))


@pytest.fixture
def opened(model: OnBench) -> Iterator[list[AppTest]]:
    """Collect the tabs of a test, to stop what they have asked for."""
    found: list[AppTest] = []
    yield found
    for at in found:
        tabs.close(at)


def follow(opened: list[AppTest], text: str) -> AppTest:
    """Open the app from a link."""
    at = tabs.new_tab(**{PARAMETER: text})
    opened.append(at)
    return at


def address(at: AppTest) -> Recipe | None:
    """Return the recipe in the address."""
    text = at.query_params.get(PARAMETER)
    return None if text is None else decode(text)


def told(at: AppTest) -> list[str]:
    return [error.value for error in at.error]


def test_a_tab_that_is_opened_from_a_link_has_its_recipe(
    model: OnBench, linked: Recipe, opened: list[AppTest]
) -> None:
    at = follow(opened, encode(linked))
    assert tabs.recipe(at, model) == address(at) == linked
    assert not told(at)
    tabs.settle(tabs.open_page(at, "tune"))
    assert at.session_state["tab"].measured.recipe == linked
    at.button(key="undo").click().run()
    assert tabs.recipe(at, model).sparsity == ()


def test_a_link_is_read_once(model: OnBench, linked: Recipe, opened: list[AppTest]) -> None:
    at = follow(opened, encode(linked))
    at.query_params[PARAMETER] = encode(linked.with_sparsity({MLP: 0.9}))
    tabs.checked(at.run())
    assert tabs.recipe(at, model) == address(at) == linked


def test_the_address_follows_the_recipe(model: OnBench, opened: list[AppTest]) -> None:
    at = tabs.new_tab()
    opened.append(at)
    tabs.open_page(at, "tune")
    assert address(at) is None
    at.slider(key=tabs.shown(at, "site-1.mlp")).set_value(75).run()
    pruned = address(at)
    assert pruned == tabs.recipe(at, model)
    assert pruned.at(MLP) == 0.75
    at.button(key="lock-2.mlp").click().run()
    assert address(at) == tabs.recipe(at, model) != pruned
    tabs.open_page(at, "model")
    assert address(at) == tabs.recipe(at, model)
    tabs.open_page(at, "tune")
    for _ in range(2):
        at.button(key="undo").click().run()
    assert tabs.recipe(at, model).sparsity == ()
    assert address(at) is None
    at.button(key="redo").click().run()
    assert address(at) == pruned
    assert not told(at)


def test_a_link_for_another_model_waits(
    model: OnBench, linked: Recipe, opened: list[AppTest]
) -> None:
    foreign = replace(linked, model="some/model", fingerprint="0123456789abcdef")
    at = follow(opened, encode(foreign))
    assert "The link carries a recipe for some/model, which is not on the bench" in told(at)[0]
    assert tabs.recipe(at, model).sparsity == ()
    # Whoever reloads the page before that model is there has it still.
    assert address(at) == foreign
    at.button(key="dismiss").click().run()
    assert not told(at), "it is said once"
    tabs.open_page(at, "tune")
    at.slider(key=tabs.shown(at, "site-0.mlp")).set_value(50).run()
    assert address(at) == tabs.recipe(at, model) != foreign


def test_a_link_that_waited_is_taken_over_when_its_model_comes(
    model: OnBench, linked: Recipe, opened: list[AppTest], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nothing_yet:
        nothing_yet.setattr("app.engine.ENGINE._current", None)
        nothing_yet.setattr("app.state.autoload", lambda: None)
        at = follow(opened, encode(linked))
        assert address(at) == linked
        assert not told(at)
    tabs.checked(at.run())
    assert tabs.recipe(at, model) == address(at) == linked


JUNK = ["", "x", "1.", "1.!!!", "2.eJwDAAAAAAE", "1.eJwDAAAAAAE", "1." + "A" * 20_000]


@pytest.mark.parametrize("text", JUNK, ids=lambda text: text[:12])
def test_what_is_no_link_is_a_sentence(model: OnBench, opened: list[AppTest], text: str) -> None:
    at = follow(opened, text)
    (sentence,) = told(at)
    assert sentence.startswith("The recipe in the link was not taken over. ")
    assert sentence.endswith((".", "?"))
    assert tabs.recipe(at, model).sparsity == ()
    assert PARAMETER not in at.query_params


def test_a_link_that_was_cut_off_is_a_sentence(
    model: OnBench, linked: Recipe, opened: list[AppTest]
) -> None:
    at = follow(opened, encode(linked)[:-9])
    assert "Copy it again, whole" in told(at)[0]
    assert tabs.recipe(at, model).sparsity == ()


@pytest.mark.parametrize("wrong", ["site", "estimator", "setting"])
def test_what_the_model_can_not_follow_is_a_sentence(
    model: OnBench, linked: Recipe, opened: list[AppTest], wrong: str
) -> None:
    if wrong == "site":
        linked = linked.with_sparsity({SiteKey(77, SiteKind.MLP): 0.5})
    elif wrong == "estimator":
        linked = replace(linked, scoring=replace(linked.scoring, estimator="astrology"))
    else:
        linked = replace(linked, scoring=replace(linked.scoring, params=(("norm", "l7"),)))
    at = follow(opened, encode(linked))
    assert told(at)[0].startswith("The recipe in the link was not taken over. ")
    assert tabs.recipe(at, model).sparsity == ()
    assert address(at) is None
    tabs.open_page(at, "tune")


def test_a_recipe_too_large_for_a_link_leaves_the_address_empty(
    model: OnBench, linked: Recipe, opened: list[AppTest]
) -> None:
    at = follow(opened, encode(linked))
    name = "".join(chr(0x4E00 + (7919 * n) % 20_000) for n in range(20_000))
    large = replace(linked, model=name)
    content = large.to_json().encode()
    at.get("file_uploader")[0].set_value(("recipe.json", content, "application/json")).run()
    tabs.checked(at)
    assert tabs.recipe(at, model) == large
    assert address(at) is None
