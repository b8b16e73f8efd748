"""The pages over HTTP: their headers, the files that they name, and what they may not hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lars_agent.files import sha256_of
from tests.service.dashboard.fake_daemon import FakeDaemon, bare_app, fake_app

PAGES = ("/", "/device", "/docs", "/learned", "/memory", "/preferences", "/versions")
SWAGGER_UI = {"swagger-ui-bundle.js", "swagger-ui.css"}  # from an installed package
STATIC = Path(__file__).parents[3] / "service" / "dashboard" / "static"


@pytest.fixture
def client() -> TestClient:
    return TestClient(fake_app(FakeDaemon()))


@pytest.mark.parametrize("path", PAGES)
def test_the_page_is_html_and_allows_nothing_from_elsewhere(client, path) -> None:
    reply = client.get(path)
    assert reply.status_code == 200
    assert path == "/docs" or client.head(path).status_code == 200
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
    assert sums == {path.name: sha256_of(path) for path in vendor.iterdir() if path.suffix in {".js", ".css"}}
    for name in sums:
        for package in name.split("-")[:-1]:  # preact-htm-3.1.1.module.js
            assert "icense" in (vendor / f"LICENSE-{package}").read_text()


def test_text_of_the_daemon_is_never_inserted_as_markup() -> None:
    code = "".join(path.read_text() for path in STATIC.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", code)


def test_the_pages_are_not_part_of_the_api(client) -> None:
    assert not {*PAGES} & {*client.get("/openapi.json").json()["paths"]}


def test_the_page_states_nothing_that_it_does_not_know_yet(client) -> None:
    pages = "".join(TestClient(bare_app()).get(path).text for path in PAGES)
    assert not re.search(r"Nothing |No |in use|not loaded|replies\.", pages)


def test_the_earlier_page_of_jobs_leads_to_where_they_are(client) -> None:
    reply = client.get("/status", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, "learned")


def sent(client, path: str) -> int:
    """How many bytes go over the network."""
    with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as reply:
        size = sum(map(len, reply.iter_raw()))
        assert reply.headers.get("content-encoding") == "gzip" or size < 500
        return size


@pytest.mark.parametrize("path", PAGES)
def test_a_page_weighs_little(client, path) -> None:
    page = client.get(path)
    seen, left = set(), re.findall(r'"(static/[^"]+)"', page.text)
    while left:
        name = left.pop()
        if name not in seen and "swagger" not in name:
            seen.add(name)
            left += [f"static/{other}" for other in re.findall(r'from "\./([^"]+)"', client.get(f"/{name}").text)]
    size = sum(sent(client, name) for name in (path, *(f"/{name}" for name in seen)))
    assert size <= (60_000 if path == "/" else 120_000)
