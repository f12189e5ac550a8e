"""The tuner in a real Chromium, on the demo: after each step Python has what is on screen."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from app import words
from pruning_core.recipe import Recipe, SiteKey, SiteKind
from pruning_core.recipe_link import PARAMETER, decode
from tests.browser.conftest import open_tab
from tests.browser.test_dragging import choose, column, drag, root, screen, spot
from tests.browser.test_first_visit import LONG, measured, number, open_page, settled

pytestmark = [pytest.mark.browser, pytest.mark.demo]

PATIENCE = 30  # seconds
CHANNELS = 1536
PARAMETERS = 134_515_008
SIZES = {SiteKind.MLP: 3 * 576 * CHANNELS, SiteKind.ATTENTION: 2 * 576 * 576 + 2 * 576 * 192}


def addressed(page: Page) -> Recipe | None:
    """Return the recipe in the address; None where nothing was pruned."""
    found = parse_qs(urlsplit(page.url).query).get(PARAMETER)
    return decode(found[0]) if found else None


def reached(recipe: Recipe | None) -> dict[SiteKey, float]:
    """Return the sparsities that a recipe comes to: of an MLP whole channels."""
    shares = {} if recipe is None else dict(recipe.sparsity)
    return {
        key: round(share * CHANNELS) / CHANNELS if key.kind is SiteKind.MLP else share
        for key, share in shares.items()
    }


def locked(page: Page) -> set[str]:
    found = page.locator("[data-key][aria-disabled]")
    return set(found.evaluate_all("all => all.map(one => one.dataset.key)"))


def agreed(page: Page, done: Callable[[Recipe | None], bool]) -> Recipe | None:
    """Wait until Python has a recipe that is `done` and on screen, number by number; return it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        recipe = addressed(page)
        shares = {str(key): 100 * share for key, share in reached(recipe).items()}
        locks = set() if recipe is None else {str(site) for site in recipe.locks}
        drawn = root(page).get_attribute("data-revision") if root(page).count() else None
        if (
            done(recipe)
            and drawn is not None
            and (recipe is None or drawn == recipe.digest)
            and screen(page) == pytest.approx(shares, abs=0.051)
            and locked(page) == locks
        ):
            break
        assert time.monotonic() < deadline, (recipe, drawn, screen(page), locked(page))
        page.wait_for_timeout(50)
    removed = sum(share * SIZES[key.kind] for key, share in reached(recipe).items())
    expect(number(page, "Parameters")).to_have_text(words.count(PARAMETERS - removed))
    return recipe


def changed(page: Page, before: Recipe | None) -> Recipe:
    """Wait until Python and the screen agree on another recipe than before."""
    recipe = agreed(page, lambda recipe: recipe != before)
    assert recipe is not None
    return recipe


def saved(page: Page) -> Recipe:
    """Save the recipe with the button in the sidebar, and return what is in the file."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    return Recipe.from_json(Path(download.value.path()).read_text("utf-8"))


def mlps(recipe: Recipe) -> dict[int, float]:
    """Return the percentages of the MLPs that a recipe names, by layer."""
    return {key.layer: 100 * share for key, share in recipe.sparsity if key.kind is SiteKind.MLP}


def score_magnitude(page: Page) -> None:
    expect(page.get_by_text("On the bench: demo")).to_be_visible(timeout=LONG)
    open_page(page, "Tune")
    page.get_by_role("combobox", name=re.compile("Ranked by")).click()
    page.get_by_role("option", name="Magnitude").click()
    button = page.get_by_role("button", name="Score Magnitude")
    expect(button.or_(root(page))).to_be_visible(timeout=LONG)
    if button.is_visible():
        button.click()
    expect(column(page, "29.mlp")).to_have_attribute("aria-valuenow", "0", timeout=LONG)


def test_what_is_on_screen_is_the_recipe(page: Page, browser: Browser, address: str) -> None:
    score_magnitude(page)
    dense = measured(page)
    assert addressed(page) is None
    root(page).scroll_into_view_if_needed()

    # Paint across ten layers; what can be counted follows while the button is down.
    place = root(page).bounding_box()
    page.mouse.move(*spot(page, "5.mlp", 0.2))
    page.mouse.down()
    page.mouse.move(*spot(page, "10.mlp", 0.45), steps=5)
    expect(number(page, "Parameters")).not_to_have_text(words.count(PARAMETERS))
    assert addressed(page) is None, "nothing is changed before the button is let go"
    assert root(page).bounding_box() == place, "what is drawn on stays where it is"
    page.mouse.move(*spot(page, "14.mlp", 0.65), steps=4)
    page.mouse.up()
    painted = changed(page, None)
    straight = {layer: 20 + 5 * (layer - 5) for layer in range(5, 15)}
    assert mlps(painted) == pytest.approx(straight, abs=1)
    assert saved(page) == painted
    pruned = settled(page, dense)

    # Lock two, and paint over them.
    choose(page, "Lock")
    page.mouse.click(*spot(page, "7.mlp", 0.5))
    page.mouse.click(*spot(page, "9.mlp", 0.5))
    two = {SiteKey(7, SiteKind.MLP), SiteKey(9, SiteKind.MLP)}
    agreed(page, lambda recipe: recipe is not None and recipe.locks == two)
    choose(page, "Paint")
    drag(page, spot(page, "5.mlp", 0.3), spot(page, "14.mlp", 0.3))
    over = agreed(page, lambda recipe: recipe is not None and recipe.sparsity != painted.sparsity)
    assert over is not None
    kept = {layer: mlps(painted)[layer] for layer in (7, 9)}
    assert mlps(over) == pytest.approx({**dict.fromkeys(range(5, 15), 30), **kept}, abs=1)
    assert all(mlps(over)[layer] == share for layer, share in kept.items())

    # Brush a range, and move it: by as much as the mouse, and the locked one in it not at all.
    choose(page, "Brush")
    drag(page, spot(page, "8.mlp", 0.6), spot(page, "11.mlp", 0.6))
    drag(page, spot(page, "10.mlp", 0.6), spot(page, "10.mlp", 0.7))
    brushed = changed(page, over)
    moved = {layer: mlps(over)[layer] + 10 for layer in (8, 10, 11)}
    assert mlps(brushed) == pytest.approx({**mlps(over), **moved}, abs=0.6)
    assert mlps(brushed)[9] == mlps(over)[9]

    assert saved(page) == brushed

    typed = by_keyboard(page, brushed)
    assert saved(page) == typed
    there_and_back(page, brushed, typed)
    last = settled(page, pruned)

    # A link is all that another tab needs.
    page.reload()
    assert agreed(page, lambda recipe: recipe is not None) == typed
    assert saved(page) == typed
    assert measured(page) == last
    with open_tab(browser, address, f"/tune?{urlsplit(page.url).query}") as other:
        assert agreed(other, lambda recipe: recipe is not None) == typed
        assert saved(other) == typed


def by_keyboard(page: Page, before: Recipe) -> Recipe:
    """Change two sites and a lock without a mouse."""
    page.get_by_role("button", name="Brush", exact=True).focus()
    page.keyboard.press("Escape")
    expect(page.locator('[data-key][tabindex="0"]')).to_have_count(2)
    page.keyboard.press("Tab")
    expect(column(page, "0.attention")).to_be_focused()
    for key in ("ArrowRight", "ArrowRight", "PageUp"):
        page.keyboard.press(key)
    expect(column(page, "2.attention")).to_be_focused()
    expect(column(page, "2.attention")).to_have_attribute("tabindex", "0")
    attention = changed(page, before)
    assert attention.at(SiteKey(2, SiteKind.ATTENTION)) > 0
    # Python's answer takes no focus away.
    expect(column(page, "2.attention")).to_be_focused()
    page.keyboard.press("Tab")
    expect(column(page, "10.mlp")).to_be_focused()
    for key in ("ArrowRight", "ArrowRight", "End", "PageDown", "ArrowUp"):
        page.keyboard.press(key)
    expect(column(page, "12.mlp")).to_be_focused()
    moved = changed(page, attention)
    assert mlps(moved) == pytest.approx({**mlps(before), 12: 91})
    page.keyboard.press("Space")
    locked = changed(page, moved)
    assert locked.locks ^ moved.locks == {SiteKey(12, SiteKind.MLP)}
    expect(column(page, "12.mlp")).to_be_focused()
    expect(page.locator('[data-key][tabindex="0"]')).to_have_count(2)
    return locked


def there_and_back(page: Page, before: Recipe, present: Recipe) -> None:
    """Undo what the keyboard did and redo it, and look at another page."""
    undo, redo = (page.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    recipe: Recipe | None = present
    for _ in range(3):
        undo.click()
        recipe = agreed(page, lambda now, last=recipe: now != last)  # type: ignore[misc]
    assert recipe == before
    for _ in range(3):
        redo.click()
        recipe = agreed(page, lambda now, last=recipe: now != last)  # type: ignore[misc]
    assert recipe == present
    expect(redo).to_be_disabled()

    open_page(page, "Model")
    expect(page.get_by_text("On the bench: demo")).to_be_visible()
    open_page(page, "Tune")
    assert agreed(page, lambda recipe: recipe is not None) == present
