"""A headless Chromium of the system for tests of pages, and a page that keeps an eye on itself."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from attrs import define, field
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

__all__ = ["Watched", "chromium", "open_page"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium() -> Generator[Browser]:
    """Run Debian's Chromium; where there is none, skip, and say what to do."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium: `make debian` installs it, as root with apt")
    with sync_playwright() as playwright:
        # Its own sandbox needs rights that root in a container has not; it sees our pages only.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@define(slots=False)  # Playwright keeps notes of its own on it.
class Watched:
    """A page, with what should not have happened on it."""

    page: Page
    origin: str
    errors: list[str] = field(factory=list[str])
    elsewhere: list[str] = field(factory=list[str])

    def on_console(self, message: ConsoleMessage) -> None:
        """Note an error or a warning."""
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def on_request(self, request: Request) -> None:
        """Note a request that leaves the node."""
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.elsewhere.append(request.url)


@contextmanager
def open_page(
    browser: Browser, origin: str, path: str = "/", *, width: int = 1280, height: int = 900
) -> Generator[Watched]:
    """Open a page of a node in a profile of its own."""
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(30_000)
    watched = Watched(page, origin)
    page.on("console", watched.on_console)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", watched.on_request)
    try:
        page.goto(origin + path)
        yield watched
    finally:
        context.close()
