"""Pages in a real browser: Debian's Chromium, or what ROBODIFF_CHROMIUM names, driven by playwright."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (1280, 768, 400)
Browse = Callable[..., Any]


def wait_until(page: Any, expression: str, seconds: float = 20) -> None:
    """Wait until an expression of a page is true; playwright's own way needs ``eval``, which pages refuse."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not within {seconds:g} s: {expression}"
        page.wait_for_timeout(20)


@pytest.fixture(scope="module")  # not the session: its event loop would run beside those of other tests
def chromium() -> Iterator[Any]:
    """A browser; a test that asks for it is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("ROBODIFF_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Browse]:
    """A function that opens a page; the test fails if the console or a script of any page told an error.

    ``browse(target, width=1280, height=800, scheme="light", reduced_motion=False)`` takes the path of a file, or an
    address, and returns playwright's page.
    """
    errors, contexts = list[str](), []

    def open_page(
        target: Path | str, width: int = 1280, height: int = 800, scheme: str = "light", reduced_motion: bool = False
    ) -> Any:
        motion = "reduce" if reduced_motion else "no-preference"
        size = {"width": width, "height": height}
        context = chromium.new_context(viewport=size, color_scheme=scheme, reduced_motion=motion)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(target.resolve().as_uri() if isinstance(target, Path) else target)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
