"""Pages that stay open: nothing jumps while they load and live, and they take no more the longer they are open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import FakeDaemon, fake_app, job_body, progress_lines
from tests.service.dashboard.test_job import STATE

pytestmark = pytest.mark.browser

AT_LOAD, IN_LIFE = 0.05, 0.02  # of cumulative layout shift
TURNS, EVERY_MS = 120, 5000  # ten minutes of polling
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

    lived(page, 20)
    before = taken()
    lived(page, TURNS)
    after = taken()
    assert after["JSHeapUsedSize"] <= 1.1 * before["JSHeapUsedSize"]
    assert after["Nodes"] <= before["Nodes"]
    assert after["JSEventListeners"] <= before["JSEventListeners"]
    page.goto("about:blank")
