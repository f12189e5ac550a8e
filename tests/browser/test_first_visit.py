"""A person's first visit: load, importance, fusion, two drags, undo. Real model, real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.demo]

LONG = 600_000  # milliseconds; the first ever visit fetches and converts the demo model


def open_page(page: Page, name: str) -> None:
    page.get_by_test_id("stTopNavLinkContainer").get_by_role("link", name=name).click()


def number(page: Page, label: str) -> Locator:
    """Return the value of one of the numbers on top of the tuner."""
    metric = page.get_by_test_id("stMetric").filter(has_text=label)
    return metric.get_by_test_id("stMetricValue")


def drag(page: Page, label: str, pixels: int) -> None:
    """Drag a dense site's slider to the right with the mouse, and let go."""
    slider = page.get_by_role("slider", name=re.compile(f"^{label}"))
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    left, middle = box["x"] + 2, box["y"] + box["height"] / 2
    page.mouse.move(left, middle)
    page.mouse.down()
    page.mouse.move(left + pixels, middle, steps=8)
    page.mouse.up()


def measured(page: Page) -> str:
    """Wait until the tuner shows a perplexity and a speed, and return the perplexity."""
    expect(number(page, "Tokens / s")).to_have_text(re.compile(r"^\d+$"), timeout=LONG)
    return number(page, "Perplexity").inner_text()


def settled(page: Page, previous: str) -> str:
    """Wait for a perplexity other than the previous one."""
    expect(number(page, "Perplexity")).to_have_text(
        re.compile(rf"^(?!{re.escape(previous)}$)\d"), timeout=LONG
    )
    return measured(page)


def test_load_score_learn_drag_undo(page: Page) -> None:
    expect(page.get_by_text("On the bench: demo")).to_be_visible(timeout=LONG)

    open_page(page, "Importance")
    page.get_by_label("Windows", exact=True).fill("4")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Score fine and coarse").click()
    expect(page.get_by_text("Where they agree")).to_be_visible(timeout=LONG)
    expect(page.locator(".js-plotly-plot")).to_have_count(4, timeout=LONG)

    open_page(page, "Fusion")
    for name, value in (("Steps", "3"), ("Batch", "1"), ("Windows", "3")):
        page.get_by_label(name, exact=True).fill(value)
        page.keyboard.press("Enter")
        expect(page.get_by_label(name, exact=True)).to_have_value(value)
    page.get_by_role("button", name="Learn the fusion").click()
    expect(page.get_by_role("heading", name="Unit by unit")).to_be_visible(timeout=LONG)

    open_page(page, "Tune")
    dense = measured(page)
    assert number(page, "Parameters").inner_text() == "135 M"

    drag(page, "5 MLP", 70)
    first = settled(page, dense)
    drag(page, "20 attention", 60)
    second = settled(page, first)
    assert len({dense, first, second}) == 3

    undo = page.get_by_role("button", name="Undo")
    for _ in range(20):
        if undo.is_disabled():
            break
        undo.click()
        page.wait_for_timeout(1_000)
    expect(number(page, "Perplexity")).to_have_text(dense, timeout=LONG)
    expect(number(page, "Parameters")).to_have_text("135 M")


def test_two_tabs_do_not_mix(page: Page, browser: Browser, address: str) -> None:
    other = browser.new_context(viewport={"width": 1440, "height": 1200}).new_page()
    other.goto(address)
    for tab in (page, other):
        expect(tab.get_by_text("On the bench: demo")).to_be_visible(timeout=LONG)
        open_page(tab, "Tune")
        tab.get_by_role("combobox", name=re.compile("Ranked by")).click()
        tab.get_by_role("option", name="Magnitude").click()
        button = tab.get_by_role("button", name="Score Magnitude")
        expect(button.or_(number(tab, "Perplexity"))).to_be_visible(timeout=LONG)
        if button.is_visible():
            button.click()
    dense = measured(page)
    assert measured(other) == dense
    drag(page, "10 MLP", 60)
    drag(other, "25 MLP", 60)
    one, two = settled(page, dense), settled(other, dense)
    assert one != two
    expect(page.get_by_role("slider", name=re.compile("^25 MLP"))).to_have_value("0")
    other.context.close()


def test_single_weights_and_many_instruments(page: Page) -> None:
    expect(page.get_by_text("On the bench: demo")).to_be_visible(timeout=LONG)
    open_page(page, "Compare")
    page.get_by_label("Windows", exact=True).fill("4")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Score and measure").click()
    expect(page.get_by_role("heading", name="Why would this unit go?")).to_be_visible(timeout=LONG)
    expect(page.locator(".js-plotly-plot")).to_have_count(3, timeout=LONG)

    open_page(page, "Tune")
    dense = measured(page)
    page.get_by_role("combobox", name=re.compile("^What leaves")).click()
    page.get_by_role("option", name="2:4").click()
    switch = page.get_by_text("1 MLP · 2:4", exact=True)
    switch.scroll_into_view_if_needed()
    switch.click()
    pruned = settled(page, dense)
    assert pruned != dense
    # 1.3 of 135 million weights are zero; nothing has become smaller.
    assert number(page, "Non-zero").inner_text() == "133 M"
    assert number(page, "Memory").inner_text() == "269 MB"

    page.get_by_role("button", name="Undo").click()
    expect(number(page, "Perplexity")).to_have_text(dense, timeout=LONG)
