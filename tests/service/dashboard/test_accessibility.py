"""axe-core on every page, in two widths and two colour schemes: no violation of any impact; and no sideways scroll."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import NIGHT, FakeDaemon, fake_app, job_body, progress_lines
from tests.service.dashboard.test_job import STATE
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
        tell(app.state.daemon, "Where is my hat?", "In the hall.", tags=("hats",), profile="w" * 64)
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


def violations(page: Page, rules: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Return what axe finds, by some of its rules or by all."""
    found = Axe().run(page, options={"runOnly": list(rules)} if rules else None).response["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found]


def darken(page: Page) -> None:
    """Show the dark colours, and wait until they are reached."""
    page.emulate_media(color_scheme="dark")
    page.evaluate("Promise.all(document.getAnimations().map(one => one.finished.catch(() => 0)))")


def assert_accessible(page: Page) -> None:
    """Both widths are sound and do not scroll sideways, in either direction of writing; dark colours contrast too."""
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme="light")
        assert violations(page) == []
        darken(page)
        assert violations(page, ["color-contrast"]) == []
        for direction in ("rtl", "ltr"):
            page.evaluate("direction => (document.documentElement.dir = direction)", direction)
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture
def inspected(browser: Browser) -> Iterator[Page]:
    """A page into which axe can be put."""
    context = browser.new_context(bypass_csp=True)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(inspected: Page, address: str, path: str) -> None:
    inspected.goto(address + path)
    inspected.wait_for_selector("#state.good")
    PAGES[path](inspected)
    assert_accessible(inspected)


def test_axe_finds_nothing_while_a_job_runs(inspected: Page) -> None:
    daemon = FakeDaemon(job=job_body("running", state=STATE), progress=progress_lines(12))
    daemon.runs = [{"scheduled": NIGHT, "outcome": "missed", "reason": "the processor has 85 °C", "job_id": None}]
    with served(fake_app(daemon)) as address:
        inspected.goto(f"{address}learned")
        inspected.wait_for_selector(".chart canvas")
        for summary in inspected.locator("summary").all()[1:]:
            summary.click()
        assert_accessible(inspected)
