"""The API's documentation page, of a real daemon that asks for a token."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import Browser

from service.settings.load import Settings
from tests.service.api import conftest as api
from tests.service.dashboard.conftest import served
from tests.service.dashboard.test_accessibility import darken, violations

TOKEN = "open sesame 1001"
SIGNED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def app(tmp_path) -> FastAPI:
    return api.fake_app(Settings(data_dir=tmp_path, schedule={"enabled": False}, server={"token": TOKEN}))


@pytest.fixture
def client(app) -> Iterator[TestClient]:
    with api.client_of(app) as client:
        yield client


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/static/docs.js", "/static/swagger-ui-bundle.js", "/static/swagger-ui.css"]
)
def test_what_draws_the_page_asks_for_no_token(client, path) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
def test_the_pages_that_fastapi_would_add_are_not_there(client, path) -> None:
    assert client.get(path, headers=SIGNED).status_code == 404


def test_only_images_may_be_inline(client) -> None:
    policies = {path: client.get(path).headers["content-security-policy"] for path in ("/", "/docs")}
    assert policies["/docs"] == f"{policies['/']}; img-src 'self' data:"


@pytest.mark.browser
def test_page_shows_every_operation_and_requests_no_other_host(app, page) -> None:
    hosts = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    with served(app) as address:
        page.goto(f"{address}docs")
        page.wait_for_selector(".opblock")
        paths = page.request.get(f"{address}openapi.json").json()["paths"]
        drawn = page.locator(".opblock").evaluate_all(
            "all => all.map(one => [...one.querySelectorAll('.opblock-summary-method, [data-path]')]"
            ".map(part => part.dataset.path ?? part.textContent.toLowerCase()))"
        )
        assert sorted(drawn) == sorted([verb, path] for path, verbs in paths.items() for verb in verbs)
        page.click(".opblock:has([data-path='/health']) .opblock-summary-control")
        page.click(".try-out__btn")
        with page.expect_response("**/health") as answer:
            page.click(".execute")
        assert answer.value.status == 200
        page.wait_for_selector(".live-responses-table")
    assert hosts == {urlsplit(address).netloc}


@pytest.mark.browser
def test_axe_finds_nothing_with_every_section_and_an_operation_open(app, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 900}, bypass_csp=True)
    page = context.new_page()
    try:
        with served(app) as address:
            page.goto(f"{address}docs")
            page.click(".opblock-post:has([data-path='/feedback']) .opblock-summary-control")
            page.click(".try-out__btn")
            page.wait_for_selector("textarea[aria-label]")
            page.click("section.models .json-schema-2020-12-expand-deep-button >> nth=0")
            assert page.locator(".opblock-tag[data-is-open=false], section.models:not(.is-open)").count() == 0
            assert violations(page) == []
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            darken(page)
            assert violations(page, ["color-contrast"]) == []
            assert page.get_attribute("html", "lang") == "en"
            page.click("nav >> text=lars-agent")
            page.wait_for_selector("#token-form")
            page.goto("about:blank")
    finally:
        context.close()
