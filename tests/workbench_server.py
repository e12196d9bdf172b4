"""A workbench served for a test, and a browser to look at it."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("starlette", reason="the extra 'workbench' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'workbench' is not installed")

from pathflip.workbench.web_server import Running, Settings, open_workbench


@contextmanager
def served(*slides: Path, **settings: Any) -> Iterator[Running]:
    """A workbench over these slides, on a port of its own."""
    running = open_workbench(Settings(slides=slides, **settings))
    running.start()
    address = httpx.URL(running.url)
    for _ in range(200):
        try:
            httpx.get(f"http://{address.host}:{address.port}/icon.svg")
            break
        except httpx.TransportError:
            time.sleep(0.02)
    try:
        yield running
    finally:
        running.stop()


@contextmanager
def client(running: Running) -> Iterator[httpx.Client]:
    """A client that has opened the printed address, as a browser would."""
    address = httpx.URL(running.url)
    with httpx.Client(base_url=f"http://{address.host}:{address.port}", timeout=30) as visitor:
        assert visitor.get("/", params=address.params).status_code == 303
        visitor.headers["X-PathFLIP"] = "1"
        yield visitor


def key_of(visitor: httpx.Client, slide_id: str) -> str:
    """The key of a slide."""
    return next(s["key"] for s in visitor.get("/api/state").json()["slides"] if s["id"] == slide_id)


def browser_path() -> str | None:
    """Where Debian, Ubuntu and others put Chromium; PATHFLIP_BROWSER names another."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("PATHFLIP_BROWSER") or next((p for p in map(shutil.which, names) if p), None)


@contextmanager
def browser_page(width: int = 1280, height: int = 800) -> Iterator[Any]:
    """A page in headless Chromium that fails the test on any script error; a visible skip without a browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if browser_path() is None:
        pytest.skip("no Chromium found (apt-get install chromium, or set PATHFLIP_BROWSER)")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if "Content Security Policy" in m.text else None)
        page.set_default_timeout(20_000)
        try:
            yield page
        finally:
            browser.close()
        assert not errors, errors
