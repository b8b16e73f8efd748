"""Pages of elsewhere that use the API in a real Chromium: one that is listed in the settings, and another."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from service.settings.load import Settings
from service.settings.server import Server
from tests.service.api.conftest import fake_app
from tests.service.dashboard.conftest import served

pytestmark = pytest.mark.browser

TOKEN = "correct horse battery"
PAGE = "<!doctype html><title>a page of elsewhere</title>"
FETCH = """async ([url, token]) => {
  try {
    const headers = { "content-type": "application/json", authorization: `Bearer ${token}`, "lars-learn": "off" };
    const answer = await fetch(url + "generate", { method: "POST", headers, body: '{"inputs": "Hi"}' });
    const links = await fetch(url + "session/links", { method: "POST", headers }).then(() => "read", () => "blocked");
    return [(await answer.json()).generated_text, links];
  } catch (error) { return ["blocked", String(error)]; }
}"""


def test_chromium_lets_a_listed_page_read_replies_and_no_other(browser, tmp_path):
    page_app = Starlette(routes=[Route("/", lambda _: HTMLResponse(PAGE))])
    with served(page_app) as listed, served(page_app) as other:
        server = Server(token=TOKEN, allowed_origins=(listed.rstrip("/"),))
        with served(fake_app(Settings(data_dir=tmp_path / "data", server=server))) as address:
            page = browser.new_page()
            page.goto(listed)
            page.wait_for_function("url => fetch(url + 'health').then((answer) => answer.ok)", arg=address)
            assert page.evaluate(FETCH, [address, TOKEN]) == ["echo: Hi", "blocked"]
            page.goto(other)
            assert page.evaluate(FETCH, [address, TOKEN])[0] == "blocked"
            page.close()
