"""A profile's job on the page What it learned, in a real Chromium: a scripted daemon, and once the real one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import NIGHT, REASON, FakeDaemon, fake_app, job_body
from tests.service.house import STANDIN

pytestmark = pytest.mark.browser

LEARN, HOLD = "#adapt[aria-disabled=false]", ".actions button:text-is('Pause')"
STATE = {"phase": "training", "step": 12, "steps": 40, "seconds_left": 300.0, "waiting_for": []}
STATE |= {"predicted_peak_bytes": 2**30}


@pytest.fixture
def daemon() -> FakeDaemon:
    verdict = {"accepted": True, "reasons": [REASON], "candidate": {"whole": "1110"}, "incumbent": {"whole": "1000"}}
    night = {"finished": NIGHT, "verdict": verdict, "version": "v2", "peak_bytes": 1_610_000_000}
    return FakeDaemon(job=job_body("succeeded", **night))


@pytest.fixture
def running(daemon) -> FakeDaemon:
    daemon.job, daemon.progress = job_body("running", state=STATE), daemon.progress[:12]
    return daemon


@pytest.fixture
def address(daemon) -> Iterator[str]:
    with served(fake_app(daemon)) as address:
        yield f"{address}learned"


def test_the_last_job_shows_its_verdict_losses_and_memory(address, page) -> None:
    page.goto(address)
    expect(page.locator("#verdict-title")).to_have_text("Better than before: published as v2.")
    assert page.text_content("#verdict-reasons") == REASON  # markup in it stays text
    page.click("text=The numbers of the last job")
    expect(page.locator(".chart canvas")).to_have_count(2)
    page.click("text=Loss as a table")
    rows = page.locator("figure details:has-text('Loss as a table') tbody tr")
    expect(rows).to_have_count(8)
    assert rows.nth(7).locator("th").text_content() == "40"
    assert "Peak 1.50 GiB of a budget of 2.00 GiB (75%)." in page.text_content("#memory-caption")


def test_the_curve_can_be_followed_with_the_arrow_keys(address, page) -> None:
    page.goto(address)
    page.click("text=The numbers of the last job")
    chart = page.locator(".chart").first
    chart.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(chart.locator(".u-legend .u-value").first).to_have_text("3")


def test_the_button_starts_a_job_which_can_be_paused(address, page, daemon) -> None:
    page.goto(address)
    page.click(LEARN)
    expect(page.locator("#job-title")).to_have_text("Learning")
    expect(page.locator("#job-title")).to_be_focused()
    expect(page).to_have_title("Learning, paused · What it learned · lars-agent")
    assert daemon.orders == ["adapt default"]
    with page.expect_response("**/jobs/j-1/pause"):
        page.click(HOLD)
    assert daemon.orders[-1] == "pause j-1"
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"


def test_cancel_asks_before_and_the_focus_is_never_lost(address, page, running) -> None:
    page.goto(address)
    page.click("button:text-is('Cancel the job')")
    page.click(".confirm >> text=Keep")
    expect(page.locator("button:text-is('Cancel the job')")).to_be_focused()
    assert running.orders == []
    page.click("button:text-is('Cancel the job')")
    with page.expect_response("**/jobs/j-1/cancel"):
        page.click(".confirm button.danger")
    expect(page.locator("#job-title")).to_be_focused()


def test_a_job_that_could_not_learn_is_not_offered_and_the_page_says_why(address, page, daemon) -> None:
    daemon.lessons = 1
    page.goto(address)
    page.wait_for_selector("#adapt-why:has-text('There is one yet.')")
    page.click("#adapt[aria-disabled=true]", force=True)
    assert daemon.orders == []
    daemon.lessons = 2
    page.wait_for_selector(LEARN, timeout=20_000)


def test_a_job_says_how_long_it_takes_and_what_it_waits_for(address, page, running) -> None:
    page.goto(address)
    expect(page.locator("#job-step")).to_have_text("training, step 12 of 40, 5 min left")
    expect(page.locator(".steps [aria-current]")).to_have_text("Learn")
    assert page.get_attribute("progress", "value") == "12"
    expect(page.locator("#memory-caption")).to_contain_text("Predicted: 1.00 GiB.")
    running.job = job_body("running", state=STATE | {"waiting_for": ["other programs take 99% of the processor"]})
    page.wait_for_selector("#job-step:has-text('12 of 40; waiting: other programs take 99% of the processor')")
    running.job = job_body("running", state=STATE | {"phase": "judging"})
    expect(page.locator(".steps [aria-current]")).to_have_text("Judge")
    assert page.get_attribute("progress", "value") is None  # how long judging takes is not known


def test_the_header_follows_the_end_of_a_job_at_once(address, page, running) -> None:
    page.clock.install()
    page.goto(address)
    expect(page.locator("#state")).to_have_text("Learning, paused")
    running.job = job_body("succeeded", finished=NIGHT)
    page.clock.run_for(3500)  # the job is read again, and the daemon's state not yet
    expect(page.locator("#job-status")).to_have_text("published")
    expect(page.locator("#state")).to_have_text("Ready")
    page.goto("about:blank")


def test_only_what_is_new_of_the_progress_is_read(address, page, running) -> None:
    asked = []
    page.on("request", lambda request: "/progress" in request.url and asked.append(request.url.partition("skip=")[2]))
    page.goto(address)
    expect(page.locator("#job-step")).to_contain_text("step 12 of 40")
    page.wait_for_load_state("networkidle")
    asked.clear()
    running.progress = [*running.progress, {"phase": "training", "step": 13, "steps": 40, "loss": 1.0}]
    expect(page.locator("#job-step")).to_contain_text("step 13 of 40")
    assert {*asked} <= {"12", "13"}


@pytest.mark.parametrize("job", [job_body("running", id="j-2"), None])
def test_nothing_of_an_earlier_job_is_shown_as_another_s(address, page, daemon, job) -> None:
    page.goto(address)
    page.click("text=The numbers of the last job")
    page.wait_for_selector(".chart canvas")
    daemon.job, daemon.progress = job, []
    expect(page.locator(".chart")).to_have_count(0, timeout=20_000)
    for width in (700, 390, 1000):  # a new width draws curves anew, if there are any
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
        assert page.locator(".chart").count() == 0
    if job:
        assert page.text_content("#job-step") == "preparing"
        assert page.get_attribute("progress", "value") is None
    else:
        assert page.locator("#job-when, #verdict-title").count() == 0


def test_page_shows_the_daemon_s_error_message(address, page, daemon) -> None:
    daemon.refusal = "job j-7 is running; wait for it, or cancel it"
    page.goto(address)
    page.click(LEARN)
    expect(page.locator(".error")).to_have_text("Job j-7 is running; wait for it, or cancel it.")
    page.wait_for_selector(LEARN)


def test_nights_are_a_calendar_with_their_reasons(address, page, daemon) -> None:
    reason = "the processor has 85 °C"
    daemon.runs = [
        {"scheduled": NIGHT, "outcome": "ran", "reason": "4 new examples", "job_id": "j-1"},
        {"scheduled": "2026-03-03T03:00:00Z", "outcome": "missed", "reason": reason, "job_id": None},
    ]
    page.clock.set_fixed_time("2026-03-04T12:00:00Z")
    page.goto(address)
    expect(page.locator(".calendar .good .unseen")).to_contain_text("published")
    expect(page.locator(".calendar .bad .unseen")).to_contain_text("missed")
    expect(page.locator(".calendar li")).to_have_count(31)  # four weeks, and the days of this one
    page.click("text=Each night and its reason")
    expect(page.locator(".runs li").nth(1)).to_contain_text("The processor has 85 °C.")


def test_button_starts_a_job_in_the_real_daemon(page, tmp_path) -> None:
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False})
    with served(api.fake_app(settings, worker_command=(sys.executable, str(STANDIN)))) as address:
        page.goto(f"{address}learned")
        for house in range(6):
            said = {"prompt": f"Which number has house {house}?", "response": "?", "correction": f"It is {house}."}
            assert page.request.post(f"{address}feedback", data=said).status == 201
        page.click(LEARN, timeout=20_000)
        expect(page.locator("#job-status")).to_have_text("published", timeout=30_000)
        expect(page.locator("#verdict-reasons")).to_contain_text("fell by")
        page.wait_for_selector("text=v1 was published")
        page.goto("about:blank")  # a page whose daemon has gone would complain
