"""Fixtures: the machine's Chromium, without a window, and pages that are held to account."""

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.machine import HANG_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium_path() -> str | None:
    """Where it is; None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


# Not for the whole session: as long as Playwright runs, its thread can run no other event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import expect, sync_playwright

    path = chromium_path()
    if path is None:
        pytest.skip(f"needs a Chromium; found none of {', '.join(_NAMES)}")
    expect.set_options(timeout=1000 * HANG_S)
    with sync_playwright() as playwright:
        # Without a sandbox, which containers don't allow: it sees only what the tests serve.
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """Opens an address, each in a profile of its own.

    In the end nothing may have been asked of another host, and nothing may have been said on the
    console: an error, or a violation of the Content-Security-Policy.
    """
    asked: list[tuple[str, str]] = []
    complaints: list[str] = []
    contexts = []

    def said(kind: str, text: str) -> None:
        # A status that isn't a success; what the page says about it is what the tests look at.
        expected = text.startswith("Failed to load resource") and "404" not in text
        if kind in ("error", "warning") and not expected:
            complaints.append(text)

    def run(url: str, **options: Any) -> "Page":
        context = browser.new_context(**options)
        context.set_default_timeout(1000 * HANG_S)
        contexts.append(context)
        context.on("request", lambda request: asked.append((url, request.url)))
        context.on("console", lambda message: said(message.type, message.text))
        context.on("weberror", lambda fault: complaints.append(str(fault.error)))
        page = context.new_page()
        page.goto(url)
        return page

    yield run
    for context in contexts:
        context.close()
    assert asked
    for url, target in asked:
        if urlsplit(target).scheme not in ("blob", "data"):
            assert urlsplit(target).netloc == urlsplit(url).netloc, target
    assert complaints == []
