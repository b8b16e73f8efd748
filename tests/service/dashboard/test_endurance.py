"""Pages that stay open: nothing jumps while they load and live, and they take no more the longer they are open."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest
from playwright.sync_api import Browser, Page

from examples.running import Daemon
from tests.default_model import START_S, kill
from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import FakeDaemon, fake_app, job_body, progress_lines
from tests.service.dashboard.test_job import STATE
from tests.tiny import save_tiny

pytestmark = pytest.mark.browser

AT_LOAD, IN_LIFE = 0.05, 0.02  # of cumulative layout shift
TURNS, EVERY_MS = 240, 5000  # twenty minutes of polling
WARM = (
    180  # turns in which the browser compiles what runs often; after an hour more it took 2% more, after two the same
)
PAGES = ("", "memory", "learned", "versions", "device", "preferences", "", "memory", "learned", "device")
TURNS_OF_TEN = 2
SHIFTS = """
window.shifts = 0;
const add = (one) => (window.shifts += one.hadRecentInput ? 0 : one.value);
new PerformanceObserver((list) => list.getEntries().forEach(add)).observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture
def scripted() -> FakeDaemon:
    return FakeDaemon(job=job_body("running", state=STATE), progress=progress_lines(12))


@pytest.fixture
def running(scripted) -> Iterator[str]:
    with served(fake_app(scripted)) as address:
        yield address


def lived(page: Page, turns: int) -> None:
    """Let the page's clock run, with the daemon's real answers in between."""
    for _ in range(turns):
        page.clock.run_for(EVERY_MS)
        page.wait_for_load_state("networkidle") if turns < 5 else page.wait_for_timeout(30)


@pytest.mark.parametrize("path", ["learned", "versions", "device"])
def test_nothing_jumps(page, running, scripted, path) -> None:
    page.clock.install()
    page.add_init_script(SHIFTS)
    page.goto(running + path)
    page.wait_for_selector("#state.busy, #state.good")
    page.wait_for_timeout(1000)
    at_load = page.evaluate("shifts")
    assert at_load <= AT_LOAD
    for load in ("1.9", "12.75", "0.4"):
        scripted.night = scripted.night | {"words": f"not adapting: the load is {load}"}
        lived(page, 4)
    assert page.evaluate("shifts") - at_load <= IN_LIFE
    page.goto("about:blank")  # a page whose daemon has gone would complain


def test_a_page_that_stays_open_takes_no_more(page, running, scripted) -> None:
    page.clock.install()
    page.goto(f"{running}learned")
    page.wait_for_selector(".chart canvas")
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable")

    def taken() -> dict[str, float]:
        client.send("HeapProfiler.collectGarbage")
        found = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
        return {name: found[name] for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")}

    lived(page, WARM)
    before = taken()
    lived(page, TURNS)
    after = taken()
    assert after["JSHeapUsedSize"] <= 1.1 * before["JSHeapUsedSize"]
    assert after["Nodes"] <= before["Nodes"]
    assert after["JSEventListeners"] <= before["JSEventListeners"]
    page.goto("about:blank")


@pytest.fixture
def alone(tmp_path) -> Iterator[Daemon]:
    """A real daemon in a process of its own, with a tiny model and some lessons."""
    state = tmp_path / "state"
    state.mkdir()
    daemon = Daemon(state, {"model__name": str(save_tiny(tmp_path / "tiny")), "runtime__threads": "1"})
    daemon.start()
    try:
        daemon.wait_until_healthy(START_S)
        for number in range(60):
            said = {"prompt": f"Where is box {number}?", "response": "?", "correction": f"In room {number}."}
            daemon.http.post("/feedback", json=said).raise_for_status()
        yield daemon
    finally:
        daemon.http.close()
        kill(daemon)


def test_ten_pages_take_little_of_the_daemon_s_memory(browser: Browser, alone: Daemon) -> None:
    """Ten open pages and their polls, each answered before the next.

    The first visit is not counted: with it the daemon loads what pages need, however many are open.
    """
    process = psutil.Process(alone.process.pid)
    answers: list[str] = []
    context = browser.new_context()
    first = context.new_page()
    first.goto(alone.url)
    first.wait_for_selector("#state.good")
    first.close()
    before = process.memory_info().rss
    for path in PAGES:
        page = context.new_page()
        page.clock.install()
        page.on("requestfinished", lambda request: answers.append(request.url))
        page.goto(f"{alone.url}/{path}")
        page.wait_for_selector("#state.good")
    for _ in range(TURNS_OF_TEN):
        for page in context.pages:
            with page.expect_response("**/info"):
                page.clock.run_for(EVERY_MS)
    assert sum(url.endswith("/info") for url in answers) >= len(PAGES) * TURNS_OF_TEN
    assert process.memory_info().rss - before <= 5_000_000
    context.close()
