"""A part that polls leaves its neighbours alone, however late the browser hears of a run."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import open_tab, serve

pytestmark = pytest.mark.browser


def test_a_neighbour_stays(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    log = tmp_path_factory.mktemp("polling") / "log"
    with (
        serve("tests/browser/polling_app.py", log) as address,
        open_tab(browser, address) as tab,
    ):
        for run in range(1, 4):
            expect(tab.get_by_text(f"Turn 2 of run {run}", exact=True)).to_be_visible()
            expect(tab.get_by_text(f"Run {run}", exact=True)).to_be_visible()
            expect(tab.get_by_text("The neighbour")).to_be_visible()
            expect(tab.get_by_role("button", name="Beside it")).to_be_visible()
            tab.get_by_role("button", name="Again").click()
