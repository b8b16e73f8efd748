"""Every state of the daemon in two widths, two colour schemes and both directions of text.

Each shows its sentences, fits the screen, has nothing that axe finds, and makes no request elsewhere. With a folder in
DASHBOARD_SCREENSHOTS each is kept as a picture.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.service.dashboard.conftest import served
from tests.service.dashboard.fake_daemon import HOT, NIGHT, REASON, Json, job_body, progress_lines
from tests.service.dashboard.scripted import Scripted, branched, interaction, lesson, scripted_app, talk
from tests.service.dashboard.test_accessibility import darken, violations
from tests.service.dashboard.test_job import STATE

pytestmark = pytest.mark.browser

SCREENSHOTS = os.environ.get("DASHBOARD_SCREENSHOTS")
WIDTHS = (390, 1280)
NO_FEEDBACK = dict.fromkeys(("total", "corrections", "liked", "disliked", "stated"), 0)
NEW = {"feedback": NO_FEEDBACK, "lessons": 0, "active": "base", "interactions": 0, "versions": []}
WATCH = """
window.violated = [];
addEventListener("securitypolicyviolation", (event) => violated.push(event.violatedDirective + " " + event.blockedURI));
"""
NO_ROOM = "no room on the disk for the database lars-agent.db; free some space and try again"
FULL = (
    "the disk of /var/lib/lars-agent is full (3 MiB are free); corrections cannot be stored until you free some space"
)
NOT_WRITABLE = "the database lars-agent.db cannot be written to; check that its disk is not mounted read-only"
READ_ONLY = "/var/lib/lars-agent cannot be written to; nothing is stored or learned until that is mended"
SAFE = "the last 3 starts failed; only the base model is served and nothing is learned; read the log and restart"
CPU = "other programs take 99% of the processor (most of it: python)"
TALKED = {"talks": [talk(1)], "replies": [interaction(number, f"Name goat {number}.") for number in range(20)]}
DRAFT = "Your goat is called Pip."


def ended(status: str, accepted: bool, **values: object) -> Json:
    verdict = {
        "accepted": accepted,
        "reasons": [REASON],
        "candidate": {"whole": "1110"},
        "incumbent": {"whole": "1000"},
    }
    return job_body(status, finished=NIGHT, verdict=verdict, peak_bytes=1_610_000_000, **values)


def unfinished(status: str = "running", **state: object) -> Json:
    """Return what the daemon says of a job that is not over."""
    night = HOT | {"adapting": status == "running", "words": "adapting default"}
    return {"job": job_body(status, state=STATE | state), "progress": progress_lines(12), "night": night}


def leave_alone(page: Page, daemon: Scripted) -> None:
    """Do nothing."""


def go_offline(page: Page, daemon: Scripted) -> None:
    page.wait_for_selector("#state.good")
    page.context.set_offline(True)
    page.clock.run_for(5000)


def give_a_wrong_token(page: Page, daemon: Scripted) -> None:
    page.fill("#token", "open sesame 1001")
    page.click("#token-form button")
    expect(page.locator("#token")).to_be_focused()


def start_another_job(page: Page, daemon: Scripted) -> None:
    page.click("text=The numbers of the last job")
    page.wait_for_selector(".chart canvas")
    daemon.job = job_body("running", id="j-2", state=STATE | {"phase": "preparing", "seconds_left": None})
    daemon.progress = []
    page.clock.run_for(5000)
    page.wait_for_selector("#job-step")
    expect(page.locator(".chart")).to_have_count(0)


def choose_work(page: Page, daemon: Scripted) -> None:
    daemon.job, daemon.progress = None, []
    page.select_option(".choice select", "work")


def open_all(page: Page, daemon: Scripted) -> None:
    page.click("button:has-text('Show all 40')")
    expect(page.locator(".versions > li.branch")).to_have_count(1)


def send_in_vain(page: Page, field: str, text: str, button: str) -> None:
    """Fill in and send what will be refused: that is said where it is seen, and what was typed stays."""
    page.fill(field, text)
    page.click(button)
    expect(page.locator(".error")).to_be_in_viewport()
    expect(page.locator(field)).to_have_value(text)


def correct_in_vain(page: Page, daemon: Scripted) -> None:
    page.click(".conversations .title")
    page.locator(".reply button:has-text('It should have said…')").last.click()
    send_in_vain(page, ".correction textarea", DRAFT, ".correction button[type=submit]")


def teach_in_vain(page: Page, daemon: Scripted) -> None:
    page.fill("[placeholder='What is my goat called?']", "What is my goat called?")
    send_in_vain(page, "[placeholder='Your goat is called Pip.']", DRAFT, "button:text-is('Store')")


def set_in_vain(page: Page, daemon: Scripted) -> None:
    send_in_vain(page, "[id='setting-schedule.cron']", "0 4 * * *", ".settings button[type=submit]")


TIMED = (go_offline, start_another_job)  # with a clock that the test moves


@dataclass(frozen=True)
class State:
    """What the daemon says, what is done on which page, and the sentences that it then has."""

    path: str
    says: tuple[str, ...]
    daemon: dict[str, object] = field(default_factory=dict)
    act: Callable[[Page, Scripted], None] = leave_alone


STATES = {
    "fresh": State("", ("No conversation yet.", "Correct two replies"), NEW),
    "fresh-memory": State("memory", ("Nothing is stored yet.",), NEW),
    "fresh-learned": State("learned", ("Nothing has been learned yet.", "There are none yet."), NEW),
    "fresh-versions": State("versions", ("The base model replies.", "Nothing has been learned yet"), NEW),
    "downloading": State(
        "",
        ("Loading the model: fetching lars-model-default (94 MiB): 40%",),
        NEW | {"model": None, "loading": "fetching lars-model-default (94 MiB): 40%"},
    ),
    "no-model": State(
        "device",
        ("The model cannot be loaded", "Trying again", "There is no network."),
        NEW | {"model": None, "loading": "trying again in 30 s", "loading_error": "there is no network"},
    ),
    "loading": State(
        "learned", ("Loading the model: reading its weights",), {"model": None, "loading": "reading its weights"}
    ),
    "one-lesson": State("learned", ("There is one yet.",), {"lessons": 1}),
    "ready": State("", ("Ready", "Goats"), TALKED),
    "ready-learned": State("learned", ("v2 replies.", "Without asking:")),
    "ready-device": State("device", ("The processor has 85 °C.", "against")),
    "ready-settings": State("preferences", ("Model: name", "94 MiB")),
    "waiting": State("learned", (f"waiting: {CPU}",), unfinished("queued", waiting_for=[CPU])),
    "paused": State("learned", ("Learning, paused", "Resume"), unfinished("paused")),
    "judging": State("learned", ("Judge", "Learning"), unfinished(phase="judging")),
    "published": State(
        "learned", ("v2 was published", "published as v2."), {"job": ended("succeeded", True, version="v2")}
    ),
    "rejected": State("learned", ("Not better than before", "was not published"), {"job": ended("rejected", False)}),
    "failed": State(
        "learned", ("The job failed.", "it broke"), {"job": job_body("failed", finished=NIGHT, error="it broke")}
    ),
    "second-job": State("learned", ("preparing",), {"job": ended("succeeded", True)}, start_another_job),
    "profile-without-a-job": State(
        "learned",
        ("Nothing has been learned yet.", "There are none yet."),
        {"job": ended("succeeded", True), "names": ("default", "work"), "versions": [], "active": "base"},
        choose_work,
    ),
    "forty-versions": State(
        "versions", ("v40 replies.", "branches off from v12"), {"versions": branched(40), "active": "v40"}, open_all
    ),
    "500-lessons": State(
        "memory", ("500 lessons", "All 50 shown", "Show more"), {"stored": [lesson(number) for number in range(500)]}
    ),
    "offline": State("", ("The daemon does not answer. What you see is of",), TALKED, go_offline),
    "wrong-token": State("", ("Locked", "That is not its token."), {"locked": True}, give_a_wrong_token),
    "safe-mode": State("device", ("Something is wrong", "Only the base model", "journalctl"), {"problems": [SAFE]}),
    "full-disk": State("", (FULL, NO_ROOM), TALKED | {"problems": [FULL], "failure": (507, NO_ROOM)}, correct_in_vain),
    "full-disk-memory": State(
        "memory", (FULL, NO_ROOM), {"problems": [FULL], "failure": (507, NO_ROOM)}, teach_in_vain
    ),
    "read-only": State(
        "",
        (READ_ONLY, NOT_WRITABLE),
        TALKED | {"problems": [READ_ONLY], "failure": (500, NOT_WRITABLE)},
        correct_in_vain,
    ),
    "read-only-settings": State(
        "preferences", (READ_ONLY, NOT_WRITABLE), {"problems": [READ_ONLY], "failure": (422, NOT_WRITABLE)}, set_in_vain
    ),
}


@pytest.fixture(scope="module")
def daemon() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def address(daemon: Scripted) -> Iterator[str]:
    with served(scripted_app(daemon)) as address:
        yield address


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 390, "height": 900})
    context.add_init_script(WATCH)
    yield context
    context.close()


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_said_fits_and_is_sound(context, address, daemon, name) -> None:
    state = STATES[name]
    daemon.become(Scripted(**state.daemon))
    page = context.new_page()
    troubles, hosts = watched(page)
    if state.act in TIMED:
        page.clock.install()
    try:
        page.goto(address + state.path)
        state.act(page, daemon)
        for sentence in state.says:
            expect(page.locator("body")).to_contain_text(re.compile(re.escape(sentence), re.I))
        for direction in ("rtl", "ltr"):
            page.evaluate("direction => (document.documentElement.dir = direction)", direction)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                assert fits(page, width)
        assert page.evaluate("violated") == []
        assert violations(page) == []
        keep(page, name, "light")
        darken(page)
        assert violations(page, ["color-contrast"]) == []  # the rest is the same in the dark
        keep(page, name, "dark")
    finally:
        context.set_offline(False)
        page.close()
    assert troubles == []
    assert hosts <= {urlsplit(address).netloc, ""}  # a Blob has no host


def fits(page: Page, width: int) -> bool:
    """Tell whether the page has no sideways scroll, once what is drawn has followed the new width."""
    for _ in range(40):
        if page.evaluate("document.documentElement.scrollWidth") <= width:
            return True
        time.sleep(0.05)
    return False


def watched(page: Page) -> tuple[list[str], set[str]]:
    """Return what the page will complain of, and the hosts it will ask; a failed request is the browser's own line."""
    troubles: list[str] = []
    hosts: set[str] = set()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on(
        "console",
        lambda message: (
            message.type in ("error", "warning")
            and not message.text.startswith("Failed to load resource")
            and troubles.append(message.text)
        ),
    )
    return troubles, hosts


def keep(page: Page, name: str, scheme: str) -> None:
    """Keep a picture of each width, if somebody wants them."""
    if SCREENSHOTS is None:
        return
    Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=str(Path(SCREENSHOTS, f"{name}-{width}-{scheme}.png")), full_page=True)
