"""The pages over HTTP, and the status page rendered in a real Chromium."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from lars_agent.files import sha256_of
from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import NIGHT, REASON, FakeDaemon, fake_app, job_body
from tests.service.house import STANDIN

PAGES = ("/", "/learned", "/memory", "/preferences", "/status", "/docs")
SWAGGER_UI = {"swagger-ui-bundle.js", "swagger-ui.css"}  # from an installed package
STATIC = Path(__file__).parents[3] / "service" / "dashboard" / "static"
SHOTS = os.environ.get("DASHBOARD_SHOTS")  # a folder to keep screenshots in


@pytest.fixture
def client() -> TestClient:
    return TestClient(fake_app(FakeDaemon()))


@pytest.mark.parametrize("path", PAGES)
def test_the_page_is_html_and_allows_nothing_from_elsewhere(client, path) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert not re.search(r"//|<style|style=|onclick=|<script>", reply.text)


def test_every_file_the_pages_name_is_served_with_its_type(client) -> None:
    kinds = {".js": "javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    pages = "".join(client.get(path).text for path in PAGES)
    scripts = "".join(path.read_text() for path in STATIC.glob("*.js"))
    imported = {f"static/{name}" for name in re.findall(r'from "\./([^"]+)"', scripts)}
    named = {*re.findall(r'"(static/[^"]+)"', pages), *imported}
    files = {path.name for path in STATIC.rglob("*") if path.suffix in kinds}
    assert {Path(name).name for name in named} == files | SWAGGER_UI
    for name in named:
        reply = client.get(f"/{name}")
        assert reply.status_code == 200
        assert kinds[Path(name).suffix] in reply.headers["content-type"]
        assert reply.headers["x-content-type-options"] == "nosniff"


def test_unchanged_file_is_304(client) -> None:
    first = client.get("/static/talk.js")
    again = client.get("/static/talk.js", headers={"If-None-Match": first.headers["etag"]})
    assert (first.headers["cache-control"], again.status_code) == ("no-cache", 304)


@pytest.mark.parametrize("path", ["/static/../routes.py", "/static/%2e%2e/routes.py", "/static/", "/static/none.js"])
def test_nothing_but_the_static_files_is_served(client, path) -> None:
    assert client.get(path).status_code == 404


def test_what_others_wrote_is_as_they_published_it_with_its_licence() -> None:
    vendor = STATIC / "vendor"
    sums = dict(line.split()[::-1] for line in (vendor / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: sha256_of(path) for path in vendor.glob("*.js")}
    for name in sums:
        for package in name.split("-")[:2]:  # preact-htm-3.1.1.module.js
            assert "icense" in (vendor / f"LICENSE-{package}").read_text()


def test_text_of_the_daemon_is_never_inserted_as_markup() -> None:
    code = "".join(path.read_text() for path in STATIC.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", code)


def test_the_pages_are_not_part_of_the_api(client) -> None:
    assert not {*PAGES} & {*client.get("/openapi.json").json()["paths"]}


@pytest.fixture
def daemon() -> FakeDaemon:
    verdict = {"accepted": True, "reasons": [REASON]}
    night = {"finished": NIGHT, "verdict": verdict, "version": "v2", "peak_bytes": 1_610_000_000}
    return FakeDaemon(job=job_body("succeeded", **night))


@pytest.fixture
def address(daemon) -> Iterator[str]:
    with served(fake_app(daemon)) as address:
        yield f"{address}status"


def shoot(page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


@pytest.mark.browser
def test_page_shows_the_last_run(address, page) -> None:
    page.goto(address)
    page.wait_for_selector("#chart svg")
    for line, points in (("train", 40), ("heldout", 8)):
        assert len(page.get_attribute(f"#chart polyline.{line}", "points").split()) == points
    assert page.locator("#chart circle.best").count() == 1
    texts = page.locator("#chart text").all_text_contents()
    assert {"step", "loss, nats per token", "held-out", "train", "0", "40"} <= set(texts)
    assert page.text_content("#verdict-title") == "Better than before: published as v2."
    assert page.text_content("#verdict-reasons") == REASON  # markup in it stays text
    assert "Peak 1.50 GiB of a budget of 2.00 GiB (75%)." in page.text_content("#memory")
    assert "smollm2-135m-instruct" in page.text_content("#facts")
    assert "584 MiB" in page.text_content("#facts")  # the daemon and the process that generates
    expect(page.locator("#adapters li")).to_have_count(3)
    shoot(page, "light")


@pytest.mark.browser
def test_page_fits_a_phone_in_dark_mode(address, page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.goto(address)
    page.wait_for_selector("#chart svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", back)) < 60
    shoot(page, "dark-phone")


@pytest.mark.browser
def test_the_button_starts_a_job_and_is_busy_while_it_runs(address, page, daemon) -> None:
    daemon.progress = daemon.progress[:12]
    page.goto(address)
    page.click("#adapt:enabled")
    page.wait_for_selector("#job-actions button")
    assert daemon.orders == ["adapt default"]
    assert page.text_content("#adapt") == "Adapting…"
    assert page.get_attribute("#adapt", "aria-busy") == "true"
    assert page.is_disabled("#adapt")
    assert page.text_content("#job-step") == "training, step 12 of 40"
    shoot(page, "running")
    with page.expect_response("**/jobs/j-1/pause"):
        page.click("#job-actions button:has-text('Pause')")
    assert daemon.orders[-1] == "pause j-1"


@pytest.mark.browser
def test_cancel_asks_before_and_the_focus_is_never_lost(address, page, daemon) -> None:
    daemon.job, daemon.progress = job_body("running"), daemon.progress[:12]
    page.goto(address)
    page.click("#job-actions button:has-text('Cancel')")
    page.click("dialog >> text=Keep")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator("#job-actions button:has-text('Cancel')")).to_be_focused()
    assert daemon.orders == []
    page.click("#job-actions button:has-text('Cancel')")
    with page.expect_response("**/jobs/j-1/cancel"):
        page.click("dialog >> text=Cancel the job")
    page.click("#job-actions button:has-text('Pause')")
    page.wait_for_selector("#job-actions button:has-text('Pause'):not([aria-busy=true])")
    assert page.evaluate("document.activeElement.tagName") != "BODY"


@pytest.mark.browser
def test_a_job_that_could_not_learn_is_not_offered_and_the_page_says_why(address, page, daemon) -> None:
    daemon.feedback |= {"corrections": 1, "liked": 0}
    page.goto(address)
    page.wait_for_selector("#adapt-why:has-text('There is one yet.')")
    assert page.is_disabled("#adapt")
    daemon.feedback |= {"liked": 1}
    page.wait_for_selector("#adapt:enabled")
    assert page.is_hidden("#adapt-why")


def test_the_page_states_nothing_that_it_does_not_know_yet(client) -> None:
    pages = "".join(client.get(path).text for path in PAGES)
    assert not re.search(r"Nothing has|(?<!hidden>)No scheduled run|in use|not loaded", pages)


@pytest.mark.browser
def test_a_job_says_how_long_it_takes_and_what_it_waits_for(address, page, daemon) -> None:
    daemon.progress = daemon.progress[:12]
    state = {"seconds_left": 300.0, "waiting_for": [], "predicted_peak_bytes": 2**30}
    daemon.job = job_body("running", state=state)
    page.goto(address)
    page.wait_for_selector("#job-step:text-is('training, step 12 of 40, 5 min left')")
    assert "Predicted: 1.00 GiB." in page.text_content("#memory-caption")
    daemon.job = job_body("running", state=state | {"waiting_for": ["other programs take 99% of the processor"]})
    page.wait_for_selector("#job-step:has-text('12 of 40; waiting: other programs take 99% of the processor')")


@pytest.mark.browser
@pytest.mark.parametrize("job", [job_body("running", id="j-2"), None])
def test_nothing_of_an_earlier_job_is_shown_as_another_s(address, page, daemon, job) -> None:
    page.goto(address)
    page.wait_for_selector("#chart svg")
    daemon.job, daemon.progress = job, []
    page.wait_for_selector("#curve", state="hidden")
    for width in (700, 390, 1000):  # a new width draws the curve anew, if there is one
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
        assert page.is_hidden("#curve")
        assert page.locator("#chart svg").count() == 0
    if job:
        assert page.text_content("#job-step") == "preparing"
        assert page.get_attribute("#job-bar", "value") is None
    else:
        assert "Nothing has been learned yet" in page.text_content("#job-when")


@pytest.mark.browser
def test_page_shows_the_daemon_s_error_message(address, page, daemon) -> None:
    daemon.refusal = "job j-7 is running; wait for it, or cancel it"
    page.goto(address)
    page.click("#adapt:enabled")
    page.wait_for_selector("#adapt-error:visible")
    assert page.text_content("#adapt-error") == "Job j-7 is running; wait for it, or cancel it."
    page.wait_for_selector("#adapt:enabled")
    shoot(page, "refused")


@pytest.mark.browser
def test_versions_are_put_in_use_and_rolled_back(address, page, daemon) -> None:
    page.goto(address)
    page.wait_for_selector("#rollback:text-is('Roll back to v1')")
    with page.expect_response("**/activate*"):
        page.click("button[aria-label='Activate base']")
    with page.expect_response("**/rollback*"):
        page.click("#rollback")
    assert daemon.orders == ["activate base", "rollback"]


@pytest.mark.browser
def test_page_of_a_new_daemon_shows_the_first_steps(address, page, daemon) -> None:
    daemon.job, daemon.active = None, "base"
    page.goto(address)
    page.wait_for_selector("#adapt:enabled")
    assert "Nothing has been learned yet" in page.text_content("#job-when")
    assert page.is_disabled("#rollback")
    assert page.is_hidden("#curve")
    shoot(page, "fresh")


@pytest.mark.browser
def test_page_shows_the_idle_checks_and_the_scheduled_runs(address, page, daemon) -> None:
    reason = "the processor has 85 °C"
    daemon.runs = [
        {"scheduled": NIGHT, "outcome": "missed", "reason": reason, "job_id": None},
        {"scheduled": NIGHT, "outcome": "ran", "reason": "4 new examples", "job_id": "j-1"},
    ]
    page.goto(address)
    page.get_by_text(f"Not adapting: {reason}.").click()
    rows = page.locator("#checks li")
    assert rows.count() == 3
    assert "heat" in rows.nth(0).inner_text()
    assert "against" in rows.nth(0).inner_text()
    assert "unknown" in rows.nth(1).inner_text()
    page.wait_for_selector("#runs li")  # read after the idle checks
    assert page.locator("#runs li").count() == 2
    assert reason in page.locator("#runs li").nth(0).inner_text()
    shoot(page, "night")


@pytest.mark.browser
def test_page_shows_problems_prominently_and_notices_quietly(address, page, daemon) -> None:
    page.goto(address)
    page.wait_for_selector("#state.good:has-text('ready')")
    daemon.problems = ["the last 3 starts failed; nothing is learned"]
    daemon.notices = ["takes effect at the next start: server.port"]
    page.goto(address)
    page.wait_for_selector("#state.bad:has-text('something is wrong')")
    assert page.text_content("#notice") == "The last 3 starts failed; nothing is learned."
    assert page.text_content("#waits") == "Takes effect at the next start: server.port."
    shoot(page, "wrong")


@pytest.mark.browser
def test_button_starts_a_job_in_the_real_daemon(page, tmp_path) -> None:
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False})
    with served(api.fake_app(settings, worker_command=(sys.executable, str(STANDIN)))) as address:
        page.goto(f"{address}status")
        for house in range(6):
            said = {"prompt": f"Which number has house {house}?", "response": "?", "correction": f"It is {house}."}
            assert page.request.post(f"{address}feedback", data=said).status == 201
        page.click("#adapt:enabled")
        page.wait_for_selector("#job-status:has-text('published')")
        page.wait_for_selector("#adapters li:first-child:has-text('v1') .pill:has-text('active')")
        assert "fell by" in page.text_content("#verdict-reasons")
        page.click("#rollback:enabled")
        page.wait_for_selector("#adapters li:last-child .pill:has-text('active')")
        page.goto("about:blank")  # a page whose daemon has gone would complain


@pytest.mark.browser
def test_a_daemon_with_a_token_asks_for_it(browser, tmp_path) -> None:
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False}, server={"token": "sesame"})
    with served(api.fake_app(settings)) as address:
        page = browser.new_page()
        page.goto(f"{address}status")
        page.fill("#token", "sesame")
        page.click("#token-form button")
        page.wait_for_selector("#adapt-why:has-text('There are none yet.')")
        page.wait_for_selector("#token-form", state="hidden")
        page.close()
