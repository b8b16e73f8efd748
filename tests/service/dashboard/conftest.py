"""A served page and the Chromium that opens it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from service.settings.load import Settings
from tests.service.api import conftest as api

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Where `app` answers, on loopback."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "it never came up"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def app(tmp_path) -> FastAPI:
    """The real daemon with an engine that replies "echo: "."""
    return api.fake_app(Settings(data_dir=tmp_path / "data", schedule={"enabled": False}))


@pytest.fixture
def daemon(app):
    return app.state.daemon


@pytest.fixture
def address(app) -> Iterator[str]:
    with served(app) as address:
        yield address


@contextmanager
def opened(page, url: str) -> Iterator[Any]:
    """`page` at a page of the dashboard, once the daemon is ready; elsewhere at the end."""
    page.goto(url)
    page.wait_for_selector("#state.good")
    yield page
    page.goto("about:blank")  # a page whose daemon has gone would complain


@pytest.fixture(scope="module")
def browser():
    """A real Chromium; where there is none, only CI insists on it."""
    if not CHROMIUM.exists() and "CI" not in os.environ:
        pytest.skip(f"there is no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page in which no error may be logged."""
    page = browser.new_page(viewport={"width": 1000, "height": 1000}, color_scheme="light")
    problems: list[str] = []

    def note(message) -> None:
        if message.type == "error" and "/models/preview" not in message.location["url"]:  # which knows no such name
            problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    page.close()
    assert [words for words in problems if "409" not in words and "422" not in words] == []
