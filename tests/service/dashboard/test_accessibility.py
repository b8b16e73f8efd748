"""axe-core on every page, in two widths and two colour schemes: no violation of any impact."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import served
from tests.service.dashboard.test_learned import taught
from tests.service.dashboard.test_memory import tell
from tests.service.dashboard.test_talk import GOAT, say

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """A daemon with two versions, some feedback and a job that is over."""
    folder = tmp_path_factory.mktemp("daemon")
    app = api.fake_app(Settings(data_dir=folder / "data", schedule={"enabled": False}))
    with served(app) as address:
        taught(app.state.daemon, folder)
        tell(app.state.daemon, "Where is my hat?", "In the hall.", tags=("hats",), profile="work")
        yield address


def open_talk(page: Page) -> None:
    say(page, GOAT)
    page.click(".reply button:has-text('It should have said…')")


def open_memory(page: Page) -> None:
    page.click("text=All 3 shown")
    page.click("text=Details >> nth=0")
    page.click("[aria-label^='Edit: '] >> nth=0")
    page.click("[aria-label='Forget the chosen']")
    page.wait_for_selector(".confirm")


def open_learned(page: Page) -> None:
    page.click("text=The numbers of the last job")
    page.fill("[aria-label='Question for both']", "Who are you?")
    page.click("button:has-text('Ask both')")
    page.click("text=Check 2 lessons")
    page.wait_for_selector("text=Right:")


def open_versions(page: Page) -> None:
    page.click("text=Details >> nth=0")


def open_device(page: Page) -> None:
    page.wait_for_selector("#checks li")
    for summary in page.locator("summary").all():
        summary.click()


def open_settings(page: Page) -> None:
    page.wait_for_selector(".settings li")
    for summary in page.locator("summary").all():
        summary.click()


PAGES = {
    "": open_talk,
    "memory": open_memory,
    "learned": open_learned,
    "versions": open_versions,
    "device": open_device,
    "preferences": open_settings,
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(browser: Browser, address: str, path: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    try:
        page.goto(address + path)
        page.wait_for_selector("#state.good")
        PAGES[path](page)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []
    finally:
        context.close()
