"""Settings in the browser: a real Chromium and the real daemon."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from service.serving.model_pull import Pull
from tests.service.dashboard.conftest import opened
from tests.tiny import save_tiny

pytestmark = pytest.mark.browser


@pytest.fixture
def preferences(page, address):
    with opened(page, f"{address}preferences") as page:
        page.wait_for_selector(".settings li")
        yield page


def test_a_switch_and_a_text_are_saved_at_once_and_undone(preferences, daemon):
    preferences.check("[id='setting-schedule.enabled']")
    preferences.wait_for_selector("text=schedule.enabled: saved, applies now.")
    assert daemon.settings.schedule.enabled
    preferences.fill("[id='setting-schedule.cron']", "0 4 * * *")
    preferences.click("button:text-is('Save')")
    preferences.wait_for_selector("text=schedule.cron: saved, applies now.")
    expect(preferences.locator(".kept")).to_be_focused()
    assert daemon.settings.schedule.cron == "0 4 * * *"
    preferences.click("text=Undo")
    expect(preferences.locator("[id='setting-schedule.cron']")).to_have_value("0 3 * * *")
    assert daemon.settings.schedule.cron == "0 3 * * *"
    preferences.click("[aria-label='Reset schedule.enabled']")
    expect(preferences.locator("[id='setting-schedule.enabled']")).not_to_be_checked()
    assert not daemon.settings.schedule.enabled


def test_what_cannot_be_is_said_and_changes_nothing(preferences, daemon):
    preferences.fill("[id='setting-schedule.cron']", "at night")
    with preferences.expect_response("**/settings") as answer:
        preferences.click("button:text-is('Save')")
    assert answer.value.status == 422
    preferences.wait_for_selector("[role=alert].error")
    assert daemon.settings.schedule.cron == "0 3 * * *"
    preferences.fill("[type=search]", "profiles")
    preferences.fill("[id='setting-learning.profiles']", "{guest = false}")
    preferences.click("button:text-is('Save')")
    preferences.wait_for_selector("text=That is not JSON.")
    preferences.fill("[id='setting-learning.profiles']", '{"guest": false}')
    preferences.click("button:text-is('Save')")
    preferences.wait_for_selector("text=learning.profiles: saved")
    assert daemon.settings.learning.profiles == {"guest": False}


def test_every_setting_is_found_by_its_words_and_says_when_it_applies(preferences, daemon):
    preferences.fill("[type=search]", "int8 weights")
    expect(preferences.locator(".settings li")).to_have_count(1)
    preferences.select_option("[id='setting-model.dtype']", "int8")
    preferences.wait_for_selector("text=model.dtype: saved, applies at the next start of the daemon.")
    preferences.wait_for_selector("#waits:has-text('model.dtype')")
    assert daemon.settings.model.dtype == "auto"
    preferences.fill("[type=search]", "bearer")
    preferences.wait_for_selector("text=Locked: it is set in the configuration file")
    preferences.fill("[type=search]", "zebra")
    preferences.wait_for_selector("text=No setting is about that.")
    preferences.fill("[type=search]", "")
    preferences.click("summary:has-text('Training')")
    expect(preferences.locator("[id='all-training.epochs']")).to_have_value("24")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_its_screen(page, address, width, scheme):
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}preferences")
    page.wait_for_selector(".settings li")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto("about:blank")


def test_a_model_is_fetched_and_chosen_for_the_next_start(preferences, daemon, tmp_path):
    tiny = save_tiny(tmp_path / "tiny")
    preferences.fill("[placeholder='org/name']", "no such model")
    preferences.click("text=What does it need?")
    preferences.wait_for_selector("[role=alert]:has-text('is no model')")
    preferences.fill("[placeholder='org/name']", str(tiny))
    preferences.click("text=What does it need?")
    preferences.wait_for_selector("text=The budget allows it to learn.", timeout=60_000)
    expect(preferences.locator(".facts dd").first).to_have_text("nothing")  # it lies on this device
    expect(preferences.locator(".facts dd").nth(2)).to_contain_text("MiB")
    preferences.click("text=Fetch tiny")
    preferences.wait_for_selector(".models li:has-text('tiny')", timeout=60_000)
    preferences.click("[aria-label='Use tiny from the next start']")
    preferences.wait_for_selector("text=model.name: saved, applies at the next start of the daemon.")
    expect(preferences.locator(".models li .pill")).to_have_text("from the next start")
    assert daemon.settings.model.name == "default"


def test_how_far_a_model_is_fetched_is_told_in_bytes(page, address, daemon):
    daemon.model_pull.last = Pull("org/name", "fetching org/name at 0123: 3,000,000 of 9,000,000 bytes")
    with opened(page, f"{address}preferences") as page:
        bar = page.locator("progress[aria-label='Fetching a model']")
        expect(bar).to_have_attribute("value", "3000000")
        expect(bar).to_have_attribute("max", "9000000")
        page.wait_for_selector("text=org/name: 3 MiB of 9 MiB")
        daemon.model_pull.last = Pull("org/name", "checking the weights")
        page.wait_for_selector("text=org/name: checking the weights")
        expect(bar).not_to_have_attribute("value", "3000000")
