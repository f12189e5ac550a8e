"""A report in a browser without a network: its charts are there, its numbers are the files'."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from pruning_core.recipe import Pattern, Recipe, Scoring, SiteKey, SiteKind
from pruning_core.report import report_of
from tests.history.run_values import FINGERPRINT, task, values
from tests.report.file_values import evaluation

pytestmark = pytest.mark.browser

WIDTHS = {"wide": 1280, "narrow": 390}
SECTIONS = ("sizes", "differences", "tasks", "layers")


def recipe(estimator: str, sparsity: float, pattern: str = "structured") -> Recipe:
    sites = {
        SiteKey(layer, kind): sparsity * (1 + math.sin(layer)) / 2
        for layer in range(12)
        for kind in SiteKind
    }
    scoring = Scoring(estimator)
    return Recipe("demo", FINGERPRINT, scoring, pattern=Pattern.parse(pattern)).with_sparsity(sites)


def run(of: Recipe, shift: float, parameters: int) -> dict[str, Any]:
    """Return a run whose windows each lose about `shift` nats per token."""
    draw = random.Random(of.digest)
    losses = [3 + shift + draw.gauss(0, 0.05) for _ in range(16)]
    mean = sum(losses) / len(losses)
    found = values(of, losses=losses, perplexity=math.exp(mean), parameters=parameters)
    found["dense"]["quality"]["perplexity"] = math.exp(3)
    return found


FILES = [
    run(recipe("hybrid", 0.2), 0.1, 90),
    run(recipe("fine", 0.5), 1.5, 60),
    run(recipe("wanda", 0.5, "2:4"), 0.4, 60),
    evaluation(
        recipe("hybrid", 0.2),
        name="other",
        tasks={"boolq": task(0.4), "piqa": task(0.45)},
        samples=[{"prompt": "The capital of France is", "dense": " Paris.", "pruned": " the."}],
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three runs under one protocol and an evaluation under another."""
    place = tmp_path_factory.mktemp("report") / "report.html"
    place.write_text(report_of(FILES), encoding="utf-8")
    return place


@contextmanager
def offline(browser: Browser, report: Path, **options: Any) -> Iterator[Page]:
    """Open a report without a network, and hold that it asks for nothing and logs nothing."""
    context = browser.new_context(**options)
    context.set_offline(True)
    tab = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda line: said.append(line.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(report.as_uri())
    yield tab
    context.close()
    assert asked == [report.as_uri()]
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_chart_is_there_and_readable(
    browser: Browser, report: Path, scheme: Any, width: str
) -> None:
    view = {"width": WIDTHS[width], "height": 900}
    with offline(browser, report, viewport=view, color_scheme=scheme) as tab:
        for section in SECTIONS:
            charts = tab.locator(f"#{section} svg")
            assert charts.count() > 0
            for chart in charts.all():
                box = chart.bounding_box()
                assert box is not None
                assert box["width"] > 200
                assert box["height"] > 80
                texts = chart.locator("text").evaluate_all(READABLE_TEXTS)
                assert texts
                assert all(text["size"] >= 8 and text["contrast"] >= 4.5 for text in texts), [
                    text for text in texts if text["size"] < 8 or text["contrast"] < 4.5
                ]
        # Only what scrolls by itself is wider than the page.
        assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width]


READABLE_TEXTS = """texts => texts.map(text => {
  const light = colour => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const paper = light(getComputedStyle(document.body).backgroundColor)
  const ink = light(getComputedStyle(text).fill)
  const [low, high] = [paper, ink].sort((a, b) => a - b)
  return {
    text: text.textContent,
    size: text.getBoundingClientRect().height,
    contrast: (high + 0.05) / (low + 0.05),
  }
})"""
"""Measures how high texts are on screen, and their contrast to the page as WCAG counts it."""


def test_names_in_a_chart_do_not_cover_each_other(browser: Browser, report: Path) -> None:
    with offline(browser, report) as tab:
        for chart in tab.locator("svg.wide").all():
            boxes = [name.bounding_box() for name in chart.locator("text.name, text.number").all()]
            found = [box for box in boxes if box is not None]
            assert len(found) == len(boxes)
            for at, one in enumerate(found):
                for other in found[at + 1 :]:
                    apart_across = (
                        one["x"] + one["width"] <= other["x"]
                        or other["x"] + other["width"] <= one["x"]
                    )
                    assert apart_across or abs(one["y"] - other["y"]) >= 12


def test_the_numbers_on_screen_are_those_of_the_files(browser: Browser, report: Path) -> None:
    with offline(browser, report) as tab:
        embedded = json.loads(tab.locator("#values").text_content() or "")
        assert embedded == FILES
        row = tab.locator("#numbers tr", has_text="fine, 20 %").first
        exact = row.locator("data").evaluate_all("all => all.map(one => Number(one.value))")
        found = embedded[1]["pruned"]
        assert exact[0] == found["quality"]["perplexity"]
        for expected in (found["quality"]["accuracy"], *found["cost"].values()):
            assert expected in [*exact, 2 * found["cost"]["parameters"]]
        assert row.locator("data").first.inner_text() == f"{exact[0]:.2f}"
        shown = tab.locator("#tasks data").evaluate_all("all => all.map(one => Number(one.value))")
        assert embedded[3]["tasks"]["boolq"]["pruned"]["acc"]["value"] in shown
        assert tab.locator("#samples blockquote").all_inner_texts() == ["Paris.", "the."]


def test_on_paper_it_is_light_and_nothing_scrolls(browser: Browser, report: Path) -> None:
    paper = {"width": 690, "height": 975}
    with offline(browser, report, viewport=paper, color_scheme="dark") as tab:
        tab.emulate_media(media="print")
        colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(255, 255, 255)"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 690
        assert tab.pdf(format="A4").startswith(b"%PDF")


def test_what_is_folded_away_opens_without_a_script(browser: Browser, report: Path) -> None:
    with offline(browser, report) as tab:
        source = tab.locator("#sources details").first
        assert not source.locator("pre").is_visible()
        source.locator("summary").click()
        assert Recipe.from_json(source.locator("pre").inner_text()) == recipe("hybrid", 0.2)
