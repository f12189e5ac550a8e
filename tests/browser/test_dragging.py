"""The drag editor in a real Chromium: what is on screen is what Python has, each time."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import open_tab, serve

pytestmark = pytest.mark.browser

LAYERS = 30
PATIENCE = 10  # seconds
LEFT, RIGHT = 46, 10  # the plot's margins in pixels, as editor.js has them


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve("tests/browser/editor_app.py", tmp_path_factory.mktemp("editor") / "log") as address:
        yield address


@pytest.fixture
def tab(browser: Browser, host: str) -> Iterator[Page]:
    with open_tab(browser, host) as page:
        ready(page)
        yield page


def ready(page: Page, layers: int = LAYERS) -> None:
    expect(column(page, f"{layers - 1}.mlp")).to_have_attribute("aria-valuenow", "0")
    expect(page.locator(".shape").last).to_have_attribute("d", re.compile("H"))


def column(page: Page, key: str) -> Locator:
    return page.locator(f'[data-key="{key}"]')


def root(page: Page) -> Locator:
    return page.locator(".drag-editor")


def choose(page: Page, mode: str) -> None:
    button = page.get_by_role("button", name=mode, exact=True)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")


def spot(page: Page, key: str, sparsity: float) -> tuple[float, float]:
    """Return the middle of a column, at the height that stands for a sparsity."""
    box = column(page, key).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] * (1 - sparsity)


def drag(page: Page, *stops: tuple[float, float], steps: int = 4) -> None:
    """Press at the first stop, pass the others, let go at the last."""
    page.mouse.move(*stops[0])
    page.mouse.down()
    for stop in stops[1:]:
        page.mouse.move(*stop, steps=steps)
    page.mouse.up()


def screen(page: Page) -> dict[str, float]:
    """Return the sparsity of every site that is not 0 on screen, in percent."""
    read = "all => all.map(one => [one.dataset.key, Number(one.getAttribute('aria-valuenow'))])"
    return {key: value for key, value in page.locator("[data-key]").evaluate_all(read) if value}


def kept(page: Page) -> dict[str, Any]:
    """Return what Python has, sparsities in percent."""
    told = json.loads(page.get_by_test_id("stText").inner_text())
    percents = {key: round(100 * share, 1) for key, share in told["sparsity"].items()}
    return {**told, "sparsity": {key: value for key, value in percents.items() if value}}


def settled(page: Page, finals: int) -> dict[str, float]:
    """Wait until Python has as many final edits, and both sides say the same; return it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        told, seen = kept(page), screen(page)
        locks = page.locator("[data-key][aria-disabled]")
        locked = sorted(locks.evaluate_all("all => all.map(one => one.dataset.key)"))
        if (told["finals"], told["sparsity"], told["locks"]) == (finals, seen, locked):
            assert root(page).get_attribute("data-revision") == str(told["revision"])
            return seen
        assert time.monotonic() < deadline, (told, seen, locked)
        page.wait_for_timeout(30)


def test_paint_across_ten_layers(tab: Page) -> None:
    tab.mouse.move(*spot(tab, "5.mlp", 0.2))
    tab.mouse.down()
    tab.mouse.move(*spot(tab, "9.mlp", 0.4))
    # Python answers in the middle of the stroke; the stroke goes on from what was drawn.
    expect(tab.get_by_test_id("stText")).to_contain_text('"5.mlp"')
    tab.mouse.move(*spot(tab, "14.mlp", 0.65))
    tab.mouse.up()
    seen = settled(tab, 1)
    assert {*seen} == {f"{layer}.mlp" for layer in range(5, 15)}
    # One event for four layers: those between lie on the straight line.
    for layer in range(5, 15):
        assert seen[f"{layer}.mlp"] == pytest.approx(20 + 5 * (layer - 5), abs=0.5)
    assert kept(tab)["others"] >= 1
    assert int(root(tab).get_attribute("data-n") or 0) >= 2


def test_paint_snaps_attention_to_its_steps(tab: Page) -> None:
    drag(tab, spot(tab, "0.attention", 0.36), spot(tab, "3.attention", 0.36))
    assert settled(tab, 1) == {f"{layer}.attention": 33.3 for layer in range(4)}


def test_a_handle_moves_by_as_much_as_the_mouse(tab: Page) -> None:
    choose(tab, "Handle")
    x, y = spot(tab, "7.mlp", 0.8)
    tall = y - spot(tab, "7.mlp", 1.0)[1]
    drag(tab, (x, y), (x + 100, y - 1.5 * tall))
    assert settled(tab, 1) == {"7.mlp": pytest.approx(30, abs=0.2)}

    tab.keyboard.down("Shift")
    drag(tab, (x, y), (x, y - tall))
    tab.keyboard.up("Shift")
    assert settled(tab, 2) == {"7.mlp": pytest.approx(32, abs=0.2)}

    before = root(tab).get_attribute("data-n")
    tab.mouse.click(x, y)
    assert root(tab).get_attribute("data-n") == before, "a press alone is no edit"


def test_locked_layers_stay(tab: Page) -> None:
    choose(tab, "Lock")
    tab.mouse.click(*spot(tab, "6.mlp", 0.5))
    settled(tab, 1)
    tab.mouse.click(*spot(tab, "8.mlp", 0.5))
    settled(tab, 2)
    expect(column(tab, "8.mlp")).to_have_attribute("aria-valuetext", "0% removed, locked")
    choose(tab, "Paint")
    drag(tab, spot(tab, "5.mlp", 0.5), spot(tab, "9.mlp", 0.5))
    assert settled(tab, 3) == {f"{layer}.mlp": 50.0 for layer in (5, 7, 9)}
    drag(tab, spot(tab, "6.mlp", 0.7), spot(tab, "6.mlp", 0.9))
    assert settled(tab, 3) == {f"{layer}.mlp": 50.0 for layer in (5, 7, 9)}

    choose(tab, "Lock")
    drag(tab, spot(tab, "8.mlp", 0.5), spot(tab, "4.mlp", 0.5))
    settled(tab, 4)
    assert kept(tab)["locks"] == [], "a stroke does to all what it does to the first"


def test_shift_locks_whole_layers(tab: Page) -> None:
    choose(tab, "Lock")
    tab.keyboard.down("Shift")
    drag(tab, spot(tab, "6.mlp", 0.5), spot(tab, "7.mlp", 0.5))
    tab.keyboard.up("Shift")
    settled(tab, 1)
    both = ["6.attention", "6.mlp", "7.attention", "7.mlp"]
    assert kept(tab)["locks"] == both
    column(tab, "7.mlp").press("Shift+Space")
    settled(tab, 2)
    assert kept(tab)["locks"] == both[:2]


def test_brush_a_range_and_move_it(tab: Page) -> None:
    drag(tab, spot(tab, "10.mlp", 0.2), spot(tab, "13.mlp", 0.5))
    shape = settled(tab, 1)
    choose(tab, "Brush")
    drag(tab, spot(tab, "9.mlp", 0.6), spot(tab, "12.mlp", 0.6))
    expect(root(tab).get_by_role("status")).to_contain_text("layers 9-12 MLP")
    drag(tab, spot(tab, "11.mlp", 0.6), spot(tab, "11.mlp", 0.7))
    seen = settled(tab, 2)
    assert seen["9.mlp"] == pytest.approx(10, abs=0.2)
    for layer in (10, 11, 12):
        assert seen[f"{layer}.mlp"] == pytest.approx(shape[f"{layer}.mlp"] + 10, abs=0.2)
    assert seen["13.mlp"] == shape["13.mlp"]
    expect(root(tab).get_by_role("status")).to_have_text("layers 9-12 MLP: +10 points")

    tab.keyboard.press("Escape")
    expect(tab.locator(".band.shown")).to_have_count(0)
    drag(tab, spot(tab, "20.mlp", 0.3), spot(tab, "22.attention", 0.5))
    expect(tab.locator(".band.shown")).to_have_count(2)
    tab.mouse.click(*spot(tab, "2.mlp", 0.6))
    expect(tab.locator(".band.shown")).to_have_count(0)


def test_a_range_keeps_its_shape_when_it_comes_back_from_the_edge(tab: Page) -> None:
    drag(tab, spot(tab, "10.mlp", 0.2), spot(tab, "13.mlp", 0.5))
    shape = settled(tab, 1)
    choose(tab, "Brush")
    drag(tab, spot(tab, "10.mlp", 0.6), spot(tab, "13.mlp", 0.6))
    middle = spot(tab, "11.mlp", 0.6)
    drag(tab, middle, (middle[0], middle[1] + 100), middle)
    assert settled(tab, 2) == shape


def test_keyboard_only(tab: Page) -> None:
    status = root(tab).get_by_role("status")
    tab.get_by_role("button", name="Reset").focus()
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("button", name="Paint")).to_be_focused()
    tab.keyboard.press("h")
    expect(tab.get_by_role("button", name="Handle")).to_have_attribute("aria-pressed", "true")
    tab.keyboard.press("Tab")
    expect(column(tab, "0.attention")).to_be_focused()
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    assert settled(tab, 1) == {"0.attention": 22.2}

    tab.keyboard.press("Tab")
    expect(column(tab, "0.mlp")).to_be_focused()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "PageDown", "ArrowDown"):
        tab.keyboard.press(key)
    assert settled(tab, 2) == {"0.attention": 22.2, "1.mlp": 89.0}
    expect(status).to_have_text("layer 1 MLP: 89% removed")
    expect(column(tab, "1.mlp")).to_be_focused()

    tab.keyboard.press("Space")
    settled(tab, 3)
    assert kept(tab)["locks"] == ["1.mlp"]
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowRight")
    for _ in range(2):
        tab.keyboard.press("Shift+ArrowRight")
    expect(status).to_contain_text("layers 2-4 MLP")
    tab.keyboard.press("PageUp")
    moved = {f"{layer}.mlp": 10.0 for layer in (2, 3, 4)}
    assert settled(tab, 4) == {"0.attention": 22.2, "1.mlp": 89.0, **moved}
    expect(status).to_have_text("layers 2-4 MLP: +10 points")
    tab.keyboard.press("Escape")
    tab.keyboard.press("Home")
    del moved["4.mlp"]
    assert settled(tab, 5) == {"0.attention": 22.2, "1.mlp": 89.0, **moved}


def test_what_python_sets_wins(tab: Page) -> None:
    drag(tab, spot(tab, "3.mlp", 0.5), spot(tab, "9.mlp", 0.5))
    settled(tab, 1)
    tab.get_by_role("button", name="Reset").click()
    expect(column(tab, "5.mlp")).to_have_attribute("aria-valuenow", "25")
    assert settled(tab, 1) == {f"{layer}.mlp": 25.0 for layer in range(LAYERS)}
    drag(tab, spot(tab, "3.mlp", 0.5), spot(tab, "3.mlp", 0.5))
    assert settled(tab, 2)["3.mlp"] == 50.0


def test_an_answer_that_comes_late_takes_nothing_back(browser: Browser, host: str) -> None:
    with open_tab(browser, host, "/?wait=0.5") as page:
        ready(page)
        column(page, "4.mlp").focus()
        for presses in (1, 2, 3):
            page.keyboard.press("ArrowUp")
            # Final, and on its way: the next press comes before Python has answered.
            expect(root(page)).to_have_attribute("data-n", str(2 * presses))
            expect(column(page, "4.mlp")).to_have_attribute("aria-valuenow", str(presses))
        page.keyboard.press("Space")
        deadline = time.monotonic() + PATIENCE
        while kept(page)["locks"] != ["4.mlp"]:
            assert screen(page) == {"4.mlp": 3.0}
            assert time.monotonic() < deadline
        assert kept(page)["sparsity"] == screen(page) == {"4.mlp": 3.0}


def test_touch(browser: Browser, host: str) -> None:
    with open_tab(browser, host, has_touch=True) as page:
        ready(page)
        finger = page.context.new_cdp_session(page)

        def touch(kind: str, *at: tuple[float, float]) -> None:
            places = [{"x": x, "y": y} for x, y in at]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        touch("touchStart", spot(page, "12.mlp", 0.3))
        for layer in range(13, 18):
            touch("touchMove", spot(page, f"{layer}.mlp", 0.3))
        touch("touchEnd")
        assert settled(page, 1) == {
            f"{layer}.mlp": pytest.approx(30, abs=0.3) for layer in range(12, 18)
        }
        choose(page, "Lock")
        page.touchscreen.tap(*spot(page, "20.mlp", 0.5))
        settled(page, 2)
        assert kept(page)["locks"] == ["20.mlp"]


def test_128_layers(browser: Browser, host: str) -> None:
    with open_tab(browser, host, "/?layers=128", viewport={"width": 1000, "height": 800}) as page:
        ready(page, 128)
        expect(page.locator("[data-key]")).to_have_count(256)
        drag(page, spot(page, "3.mlp", 0.4), spot(page, "120.mlp", 0.4), steps=30)
        seen = settled(page, 1)
        assert {*seen} == {f"{layer}.mlp" for layer in range(3, 121)}
        page.set_viewport_size({"width": 700, "height": 800})
        expect(page.locator(".plot > svg")).to_have_attribute("width", "668")
        drag(page, spot(page, "125.mlp", 0.7), spot(page, "127.mlp", 0.7))
        assert {*settled(page, 2)} == {*seen, "125.mlp", "126.mlp", "127.mlp"}
