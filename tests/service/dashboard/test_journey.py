"""What a new user does, with the real default model in a daemon of its own process, and nothing but the browser."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from examples.running import Daemon
from tests.default_model import CACHE, START_S, default_daemon, kill

pytestmark = [pytest.mark.real_model, pytest.mark.browser, pytest.mark.timeout(900)]

SETTINGS = {
    "training__steps": "7",
    "training__threads": "1",
    "runtime__threads": "1",
    "runtime__keep_alive_s": "0",
}
REPLY_MS, JOB_MS = 60_000, 400_000
PIP = "Your goat is called Pip."


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Daemon]:
    with default_daemon(tmp_path_factory.mktemp("state"), SETTINGS) as running:
        yield running


def visit(page: Page, running: Daemon, path: str = "") -> None:
    page.goto(f"{running.url}/{path}")
    page.wait_for_selector("#state.good, #state.busy")


def say(page: Page, text: str, number: int) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.wait_for_selector(f".thread > li:nth-child({number}) .reply[aria-busy=false]", timeout=REPLY_MS)


def learn(page: Page, running: Daemon) -> None:
    visit(page, running, "learned")
    page.click("#adapt[aria-disabled=false]")


def test_from_the_first_reply_to_a_version_and_back(page, running) -> None:
    visit(page, running)
    page.wait_for_selector(".first-run")
    say(page, "What is the name of my goat?", 1)
    assert "Pip" not in page.text_content(".thread > li .reply p")
    page.click(".reply >> text=It should have said…")
    page.fill(".correction textarea", PIP)
    page.click(".correction >> text=Save")
    page.wait_for_selector(f".kept:has-text('Corrected: “{PIP}”')")
    say(page, "By the way, my sister lives in Oslo.", 2)
    page.wait_for_selector(".kept:has-text('Noted: ')")
    page.click("text=New conversation")
    say(page, "How is my goat called?", 1)
    expect(page.locator(".thread .reply p").first).to_contain_text("Pip")  # at once, by recall
    page.wait_for_selector(f"text=Recalled: “{PIP}”")
    say(page, "Name a fruit.", 2)
    page.click(
        ".thread > li:nth-child(2) [aria-label='Good reply']"
    )  # to judge by: no lesson that only this one teaches
    page.wait_for_selector(".thread > li:nth-child(2) [aria-pressed=true]")

    learn(page, running)
    page.wait_for_selector(".chart canvas", timeout=JOB_MS)
    page.click("text=Loss as a table")
    steps = page.locator("details:has-text('Loss as a table') tbody th")
    expect(steps.last).to_have_text("3", timeout=JOB_MS)  # the curve moves
    expect(page.locator("#job-status")).to_have_text("published", timeout=JOB_MS)
    page.wait_for_selector("text=v1 was published")
    page.fill("[aria-label='Question for both']", "What is the name of my goat?")
    page.click("button:has-text('Ask both')")
    expect(page.locator(".side").nth(1)).to_contain_text("Pip", timeout=REPLY_MS)
    page.click("text=Check 2 lessons")
    expect(page.locator("text=/^Right: base model 0, v1 [12]/")).to_be_visible(timeout=REPLY_MS)

    visit(page, running)
    say(page, "What is the name of my goat?", 1)
    expect(page.locator(".thread .reply .pill").first).to_have_text("v1")
    expect(page.locator(".thread .reply p").first).to_contain_text("Pip")

    visit(page, running, "versions")
    page.click("#rollback")
    page.wait_for_selector("text=The base model replies.")
    page.click("text=Undo")
    page.wait_for_selector("text=v1 replies.")


def test_what_is_forgotten_takes_its_version_with_it(page, running) -> None:
    visit(page, running, "memory")
    page.click(f".lessons > li:has-text('{PIP}') >> text=Forget")
    page.wait_for_selector(".confirm:has-text('v1 learned it and will be deleted')")
    page.click(".confirm button.danger")
    page.wait_for_selector(
        "text=nothing of it is left in any file. v1 had learned of it and was deleted.", timeout=60_000
    )
    visit(page, running, "versions")
    expect(page.locator(".versions > li")).to_have_count(1)
    found = [path for path in running.state.rglob("*") if path.is_file() and CACHE not in path.resolve().parents]
    assert [path.name for path in found if b"called Pip" in path.read_bytes()] == []


def test_a_second_job_shows_nothing_of_the_first_and_another_profile_none_of_both(page, running) -> None:
    for profile, count in (("default", 2), ("work", 1)):
        for number in range(count):
            said = {"prompt": f"Where is box {number}?", "correction": f"In room {number}.", "response": "?"}
            running.post("/feedback", said | {"profile": profile})
    learn(page, running)
    page.wait_for_selector("#job-title:text-is('Learning')")
    assert page.locator(".chart").count() == 0
    page.wait_for_selector(".chart canvas", timeout=JOB_MS)
    page.select_option(".choice select", "work")
    page.wait_for_selector("#adapt-why:has-text('Another profile is learning just now')")
    assert page.locator(".chart, #job-status, .steps").count() == 0
    page.select_option(".choice select", "default")
    page.click("button:text-is('Cancel the job')")
    page.click(".confirm button.danger")
    expect(page.locator("#job-status")).to_have_text("cancelled", timeout=60_000)


def test_a_setting_is_changed_and_a_file_is_imported_once_its_lines_are_mended(page, running, tmp_path) -> None:
    visit(page, running, "preferences")
    page.uncheck("[id='setting-recall.enabled']")
    page.wait_for_selector("text=recall.enabled: saved, applies now.")
    page.click("text=Undo")
    expect(page.locator("[id='setting-recall.enabled']")).to_be_checked()

    visit(page, running, "memory")
    lines = ['{"prompt": "Where is my kite?", "completion": "In the attic."}', '{"prompt": "Who?"}']
    for count in (2, 1):
        file = tmp_path / f"lessons-{count}.jsonl"
        file.write_text("\n".join(lines[:count]))
        page.set_input_files("input[type=file]", file)
        page.wait_for_selector("text=1 line can be imported")
        expect(page.locator("text=Import 1 line")).to_have_count(2 - count)
    page.click("text=Import 1 line")
    page.wait_for_selector("text=1 lesson imported.")
    expect(page.locator(".lessons > li:has-text('In the attic.')")).to_have_count(1)


def test_a_daemon_that_is_killed_or_frozen_comes_back_in_the_open_page(browser, running) -> None:
    page = browser.new_page()  # whose failed requests are errors on its console
    visit(page, running)
    running.process.send_signal(signal.SIGSTOP)
    page.wait_for_selector("#state.bad:has-text('does not answer'):has-text('What you see is of')", timeout=40_000)
    running.process.send_signal(signal.SIGCONT)
    page.wait_for_selector("#state.good", timeout=30_000)
    kill(running)
    page.wait_for_selector("#state.bad:has-text('does not answer')", timeout=30_000)
    running.start()
    running.wait_until_healthy(START_S)
    page.wait_for_selector("#state.good", timeout=60_000)
    say(page, "Are you back?", 1)
    page.close()
