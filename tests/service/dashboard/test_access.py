"""Another browser is let in by a link, listed, and shown the door: a real Chromium, and a phone behind a proxy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import expect

from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import opened, served

pytestmark = pytest.mark.browser
URL = "https://lars-agent.local"


def test_a_phone_comes_in_by_the_link_and_goes_by_the_button(page, browser, tmp_path):
    settings = Settings(data_dir=tmp_path, server={"external_url": URL}, schedule={"enabled": False})
    phone = browser.new_context(
        viewport={"width": 390, "height": 844}, extra_http_headers={"X-Forwarded-For": "192.168.1.30"}
    )
    with served(api.fake_app(settings)) as address, opened(page, f"{address}preferences") as page:
        page.click("text=Make a link")
        link = page.input_value("[aria-label='The link']")
        assert link.startswith(f"{URL}/?code=")
        expect(page.locator("svg.qr")).to_be_visible()
        other = phone.new_page()
        other.goto(link.replace(f"{URL}/", address))
        other.click("text=Continue")
        other.wait_for_selector("#state.good")
        other.goto(f"{address}preferences")
        expect(other.locator(".sessions li")).to_contain_text("this browser")
        assert other.evaluate("document.documentElement.scrollWidth") <= 390
        if folder := os.environ.get("SCREENSHOTS"):
            other.locator("#access-title").scroll_into_view_if_needed()
            other.click("text=Make a link")
            other.wait_for_selector("svg.qr")
            other.screenshot(path=str(Path(folder) / "access.png"), full_page=True)
        page.reload()
        session = page.locator(".sessions li")
        expect(session).to_contain_text("Chrome, Linux")
        session.locator("button").click()
        session.locator(".danger").click()
        expect(page.locator(".sessions li")).to_have_count(0)
        other.goto(f"{address}preferences")
        expect(other.locator("#token-form")).to_be_visible()
        expect(other.locator(".settings li")).to_have_count(0)
    phone.close()


def test_where_only_this_device_gets_in_nothing_is_offered(page, address):
    with opened(page, f"{address}preferences") as page:
        page.wait_for_selector(".settings li")
        expect(page.locator("#access-title")).to_have_count(0)
