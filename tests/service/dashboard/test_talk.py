"""Talk and correct in the browser: a real Chromium, the real daemon, and an engine that replies "echo: "."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import opened, served
from tests.store.make import make_candidate, make_draft

pytestmark = pytest.mark.browser

FIX = ".reply button:has-text('It should have said…')"
GOAT = "By the way, my goat is called Pip."


@pytest.fixture
def talk(page, address):
    with opened(page, address) as page:
        yield page


def say(page, text: str, number: int = 1) -> None:
    """Send a message, and wait for the reply, which is the thread's `number`th."""
    page.fill("#message", text)
    page.press("#message", "Enter")
    page.wait_for_selector(f".thread > li:nth-child({number}) .reply[aria-busy=false]:has-text('echo: {text}')")


def given(daemon) -> list[tuple[float | None, str | None]]:
    return [(row.rating, row.correction) for row in daemon.db.feedback.list(source="given")]


def test_a_reply_streams_into_the_conversation_which_is_kept_and_found_again(talk, daemon):
    say(talk, "Hello")
    say(talk, "And goats?", 2)
    (found,) = daemon.db.interactions.conversations()
    assert (found.title, found.interactions) == ("Hello", 2)
    assert [turn["content"] for turn in daemon.db.interactions.list()[0].messages] == [
        "Hello",
        "echo: Hello",
        "And goats?",
    ]
    talk.click("text=New conversation")
    assert talk.locator(".thread > li").count() == 0
    say(talk, "Other")
    talk.fill("input[type=search]", "GOATS")
    expect(talk.locator(".conversations li")).to_have_count(1)
    talk.click(".conversations .title")
    talk.wait_for_selector(".thread > li:nth-child(2):has-text('And goats?')")
    assert talk.locator(".thread > li").count() == 2


def test_a_correction_is_kept_at_once_edited_and_forgotten_with_its_effect_said_before(talk, daemon, tmp_path):
    say(talk, "What is my goat called?")
    talk.click(FIX)
    talk.fill(".correction textarea", "Your goat is called Pip.")
    talk.click(".correction >> text=Save")
    talk.wait_for_selector(".kept:has-text('Corrected: “Your goat is called Pip.” used from the next reply on')")
    assert given(daemon) == [(None, "Your goat is called Pip.")]
    say(talk, "Which name does my goat have?", 2)
    talk.wait_for_selector(".thread > li:nth-child(2):has-text('Recalled: “Your goat is called Pip.”')")
    talk.click(".thread > li:first-child >> text=Edit the correction")
    talk.fill(".correction textarea", "Your goat is called Pippa.")
    talk.press(".correction textarea", "Tab")
    talk.keyboard.press("Enter")
    talk.wait_for_selector(".kept:has-text('Pippa')")
    assert given(daemon) == [(None, "Your goat is called Pippa.")]
    (row,) = daemon.db.feedback.list()
    draft = make_draft()
    version = daemon.store.publish("default", make_candidate(tmp_path / "c"), draft).version
    daemon.switch.activate("default", version)
    talk.click(".thread > li:first-child .kept >> text=Forget")
    talk.wait_for_selector(".confirm:has-text('2 recorded replies go with it.')")
    expect(talk.locator(".confirm .danger")).to_be_focused()
    talk.click(".confirm >> text=Keep")
    expect(talk.locator(".thread > li:first-child .kept button")).to_be_focused()
    talk.click(".thread > li:first-child .kept >> text=Forget")
    talk.click(".confirm .danger")
    expect(talk.locator(".thread > li")).to_have_count(0)
    assert (given(daemon), daemon.db.interactions.count()) == ([], 0)
    assert daemon.db.erasures.list()[0].feedback == (row.id,)


def test_thumbs_and_a_correction_of_one_reply_are_one_row(talk, daemon):
    say(talk, "Hello")
    talk.click("[aria-label='Bad reply']")
    talk.wait_for_selector("[aria-label='Bad reply'][aria-pressed=true]")
    talk.click("[aria-label='Good reply']")
    talk.wait_for_selector("[aria-label='Good reply'][aria-pressed=true]")
    assert given(daemon) == [(1.0, None)]
    talk.click(FIX)
    talk.press(".correction textarea", "Escape")
    talk.wait_for_selector(".correction", state="detached")
    expect(talk.locator(FIX)).to_be_focused()
    talk.click(FIX)
    talk.fill(".correction textarea", "Hi.")
    talk.click(".correction >> text=Save")
    talk.wait_for_selector(".kept:has-text('Hi.')")
    assert given(daemon) == [(1.0, "Hi.")]


def test_what_is_stated_is_shown_as_noted_and_can_be_forgotten(talk, daemon):
    say(talk, GOAT)
    talk.wait_for_selector(".kept:has-text('Noted: “Your goat is called Pip.”')")
    talk.click(".kept >> text=Forget")
    talk.click(".confirm .danger")
    expect(talk.locator(".thread > li")).to_have_count(0)
    assert daemon.db.feedback.list() == []


def test_nothing_is_kept_of_a_conversation_that_is_not_to_be_learned_from(talk, daemon):
    talk.check("input[type=checkbox]")
    say(talk, GOAT)
    assert (daemon.db.interactions.count(), daemon.db.feedback.list()) == (0, [])
    assert talk.locator("[aria-label='Good reply']").count() == 0


def test_a_reply_is_stopped_and_tried_again(talk, daemon, app):
    with daemon.model_host.engine() as engine:
        engine.gate.clear()
        talk.fill("#message", "Hello")
        talk.press("#message", "Enter")
        talk.click("text=Stop")
        talk.wait_for_selector("text=Stopped; it was not kept.")
        engine.gate.set()
    assert daemon.db.interactions.count() == 0
    talk.click("text=Try again")
    talk.wait_for_selector(".reply[aria-busy=false]:has-text('echo: Hello')")
    assert talk.locator(".thread > li").count() == 1


def test_a_conversation_is_deleted_after_a_question(talk, daemon):
    say(talk, "Hello")
    talk.click("[aria-label='Delete the conversation: Hello']")
    assert daemon.db.interactions.count() == 1
    talk.click(".confirm .danger")
    talk.wait_for_selector("text=No conversation yet.")
    assert daemon.db.interactions.count() == 0


def test_hostile_text_stays_text_and_reaches_nothing(talk, daemon):
    asked = "<img src=x onerror=alert(1)> {{7*7}} javascript:alert(1) \u202e"
    dialogs: list[str] = []
    talk.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    talk.fill("#message", asked)
    talk.press("#message", "Enter")
    talk.wait_for_selector(".reply[aria-busy=false]")
    assert talk.text_content(".said") == asked
    assert talk.locator("#talk-page img").count() == 0
    assert dialogs == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_screen_and_is_small(page, address, width, scheme):
    loaded: list[Any] = []
    page.on("requestfinished", lambda request: loaded.append(request))
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector("#state.good")
    say(page, "A_rather_long_word" * 12)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    parts = [one for one in loaded if "static" in one.url or one.url == address]
    assert len(parts) > 8
    assert sum(one.sizes()["responseBodySize"] for one in parts) <= 60_000
    assert not re.search(r"Connecting", page.text_content("#state"))
    page.goto("about:blank")


def test_a_daemon_with_a_token_asks_for_it_and_goes_on(browser, tmp_path):
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False}, server={"token": "open sesame 1001"})
    with served(api.fake_app(settings)) as address:
        page = browser.new_page()
        page.goto(address)
        page.fill("#token", "open sesame 1001")
        page.click("#token-form button")
        page.wait_for_selector("#state.good")
        say(page, "Hello")
        page.close()
