"""What a page holds when it is sent: it can be read without scripts, is drawn at once, and is of its visitor only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from service.dashboard.routes import PAGES
from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import served

TOKEN = "open sesame 1001"
HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def guarded(tmp_path) -> Iterator[str]:
    """The address of a daemon with a token, which has a conversation with a correction."""
    app = api.fake_app(Settings(data_dir=tmp_path, schedule={"enabled": False}, server={"token": TOKEN}))
    with served(app) as address:
        teach(address)
        yield address


def teach(address: str, token: str = TOKEN) -> None:
    asked = {"inputs": "What is my goat called?", "parameters": {"max_new_tokens": 9}}
    with client(address, token) as http:
        reply = http.post("generate", json=asked, headers={"LARS-Conversation": "goats"}).json()
        given = {"interaction_id": reply["interaction_id"], "correction": "Pip.", "tags": ["pets"]}
        assert http.post("feedback", json=given).is_success


def client(address: str, token: str = TOKEN) -> httpx.Client:
    return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def scriptless(browser) -> Iterator[Any]:
    """A page of a browser that runs no scripts."""
    context = browser.new_context(java_script_enabled=False)
    yield context.new_page()
    context.close()


def test_every_page_can_be_read_without_scripts_once_the_token_is_given(scriptless, guarded):
    scriptless.goto(f"{guarded}memory")
    expect(scriptless.locator("body")).not_to_contain_text("Pip")
    scriptless.fill("#token", "open")
    scriptless.click("text=Continue")
    expect(scriptless.locator("#token-error")).to_have_text("That is not its token.")
    expect(scriptless.locator("#token")).to_be_focused()
    scriptless.fill("#token", TOKEN)
    scriptless.click("text=Continue")
    assert scriptless.url == f"{guarded}memory"
    expect(scriptless.locator("#token-form")).to_be_hidden()
    expect(scriptless.locator(".lessons li")).to_contain_text("What is my goat called?")
    expect(scriptless.locator(".lessons li")).to_contain_text("Pip.")
    texts = {"Versions": "The base model replies.", "What it learned": "Nothing has been learned yet."}
    for title, text in {**texts, "Device": "Free disk", "Settings": "memory.budget_bytes"}.items():
        scriptless.click(f"nav >> text={title}")
        expect(scriptless.locator("main")).to_contain_text(text)
    scriptless.click("nav >> text=Talk")
    scriptless.click("text=What is my goat called?")
    expect(scriptless.locator(".thread .reply")).to_contain_text("echo: ")


def test_a_long_list_goes_on_without_scripts(scriptless, address):
    with client(address) as http:
        for number in range(51):
            row = {"prompt": f"What is {number}?", "response": "", "correction": f"It is {number}."}
            assert http.post("feedback", json=row).is_success
    scriptless.goto(f"{address}memory")
    expect(scriptless.locator(".lessons li")).to_have_count(50)
    scriptless.click("text=Show more")
    expect(scriptless.locator(".lessons li")).to_have_count(1)
    expect(scriptless.locator(".lessons li")).to_contain_text("It is 0.")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_came_with_the_page_is_not_asked_for_again(browser, address, page):
    teach(address)
    tab = browser.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url) if request.resource_type == "fetch" else None)
    tab.goto(f"{address}{page.path[1:]}")
    tab.wait_for_selector("#state.good")
    expect(tab.locator("#reading")).to_have_count(0)
    expect(tab.locator(f"#{page.name}-page > *").first).to_be_visible()
    assert asked == []
    tab.goto("about:blank")
    tab.close()


def test_a_link_opens_a_conversation(page, address):
    teach(address)
    page.goto(f"{address}?conversation=goats")
    expect(page.locator(".thread .kept")).to_contain_text("Pip.")
    page.goto("about:blank")


def test_text_in_the_data_of_a_page_stays_text(page, app, address):
    with client(address) as http:
        row = {"prompt": HOSTILE, "response": HOSTILE, "correction": HOSTILE, "tags": [HOSTILE]}
        assert http.post("feedback", json=row).is_success
    page.goto(f"{address}memory")
    expect(page.locator(".lessons > li p").first).to_have_text(HOSTILE)
    assert page.locator("script").count() == 2  # the page's own and its data
    assert TestClient(app, base_url="http://127.0.0.1").get("/memory").text.count("<script") == 2
    page.goto("about:blank")


def test_who_has_no_token_gets_no_data_and_who_has_is_not_cached(guarded):
    with client(guarded) as known, client(guarded, "wrong") as stranger:
        for page in PAGES:
            assert "no-store" in known.get(page.path).headers["cache-control"]
            assert "goat" not in stranger.get(page.path, params={"conversation": "goats"}).text
        assert "goat" in known.get("/memory").text
        assert known.post("session").status_code == 204
        del known.headers["Authorization"]
        assert "goat" in known.get("/memory").text
        visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        followed = known.get("/memory", headers=visit)
        assert followed.status_code == 200
        assert "goat" not in followed.text


def test_a_link_opens_another_browser_once(browser, guarded):
    owner = browser.new_page(extra_http_headers={"Authorization": f"Bearer {TOKEN}"})
    owner.goto(f"{guarded}preferences")
    owner.click("text=Make a link")
    link = owner.locator("[aria-label='The link']").input_value()
    assert link.startswith(f"{guarded}?code=")
    owner.goto("about:blank")
    owner.close()
    for expected in ("Ready", "Locked"):
        context = browser.new_context()
        page = context.new_page()
        page.goto(link)
        expect(page.locator("#state")).to_have_text("Locked")  # opening it takes nothing: what previews links may
        page.click("text=Continue")
        expect(page.locator("#state")).to_have_text(expected)
        context.close()


def test_without_a_token_no_link_is_made(address):
    with client(address) as http:
        reply = http.post("session/links")
    assert reply.status_code == 409
    assert "set server.external_url" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "sent", ["page=//elsewhere.example", "page=/feedback", "page=", "", "%ff=%ff", "page=/&page=/x"]
)
def test_the_form_leads_to_pages_of_this_daemon_alone(guarded, sent):
    with client(guarded) as http:
        reply = http.post("enter", content=sent, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert (reply.status_code, reply.headers["location"]) == (303, "./?refused=token")
    assert "set-cookie" not in reply.headers
