"""A real server on a free port, and a real Chromium to look at it with."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Without these Chromium looks for its maker's servers at every start.
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the app and return its address."""
    with serve("app/main.py", tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@contextmanager
def serve(script: str, log: Path) -> Iterator[str]:
    """Run a Streamlit script on a free port, and hand out its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", script, f"--server.port={port}"]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium, or Playwright's own."""
    path = next((found for name in SYSTEM_BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        except Exception as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no Chromium to drive: {error}")
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open the app in a fresh tab."""
    with open_tab(browser, address) as tab:
        yield tab


@contextmanager
def open_tab(browser: Browser, address: str, path: str = "", **options: Any) -> Iterator[Page]:
    """Open a page in a fresh context and hold that it asks no other machine and logs no error."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 1200}, **options})
    tab = context.new_page()
    outside: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: outside.append(request.url))
    tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tab.goto(address + path)
    yield tab
    context.close()
    strangers = [url for url in outside if not url.startswith((address, "data:", "blob:", "ws:"))]
    assert not strangers, "the page asked other machines for something"
    # A deep link makes Streamlit probe two paths that do not exist; nothing else may go wrong.
    assert not [text for text in errors if "404" not in text]


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the app did not start: {log.read_text()}")
