"""A real browser for pages that were written to disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where screenshots stay, for a person to look at."""
    folder = Path(os.environ.get("RAISE_MDIT_ARTIFACTS", Path(__file__).parent / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; tests of it are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright's package")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs the program chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what it did since."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


@pytest.fixture(scope="session")
def visit(chromium: Any) -> Iterator[Callable[[Path], Visit]]:
    """Opens a file and waits for its plots."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})

    def open_file(path: Path) -> Visit:
        visited = Visit(context.new_page())
        visited.page.goto(path.as_uri())
        visited.page.wait_for_selector("body[data-drawn]")
        return visited

    yield open_file
    context.close()
