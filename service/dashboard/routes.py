"""The dashboard at /, /memory, /learned, /versions, /device and /preferences, and the API documentation at /docs.

Nothing is loaded from another host. The pages contain no data: their scripts read the same JSON as every client.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.dashboard.language import COOKIE, Language, Languages
from service.process.version import package_version

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent
SWAGGER_UI = ("fastapi_standalone_docs", "static/swagger")  # the package and its folder
STATIC_PATH = "/static"  # open without a token: see `service.api.middleware`
POLICY = "Content-Security-Policy"
HEADERS = {
    POLICY: "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidated, so that a new page never runs an old script
}


class Page(NamedTuple):
    """A page of the dashboard; its script has the name, and fills the element `<name>-page`."""

    path: str
    name: str
    title: str


PAGES = (
    Page("/", "talk", "Talk"),
    Page("/memory", "memory", "My data"),
    Page("/learned", "learned", "What it learned"),
    Page("/versions", "versions", "Versions"),
    Page("/device", "device", "Device"),
    Page("/preferences", "settings", "Settings"),  # the settings themselves are at /settings
)
DOCS_HEADERS = HEADERS | {POLICY: f"{HEADERS[POLICY]}; img-src 'self' data:"}  # icons in Swagger UI's style


class Assets(StaticFiles):
    """Static files with the dashboard's headers."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Return the file, or 304 if the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def _add_page(page: Page) -> None:
    def show(request: Request) -> HTMLResponse:
        language = language_of(request)
        words = {"t": language.t, "language": language, "languages": request.app.state.languages}
        html = _template().render(version=package_version(), pages=PAGES, here=page, **words)
        return HTMLResponse(html, headers=HEADERS | {"Vary": "Accept-Language, Cookie"})

    router.add_api_route(page.path, show, methods=["GET", "HEAD"], response_class=HTMLResponse)


def language_of(request: Request) -> Language:
    """Return the language in which a request gets its page."""
    languages: Languages = request.app.state.languages
    return languages.choose(request.cookies.get(COOKIE, ""), request.headers.get("accept-language", ""))


for _page in PAGES:
    _add_page(_page)


@router.get("/status", response_class=RedirectResponse)
def status() -> RedirectResponse:
    """Send who knows the earlier page of jobs and versions to where jobs are now."""
    return RedirectResponse("learned", headers=HEADERS)


@router.get("/docs", response_class=HTMLResponse)
def docs() -> FileResponse:
    """Return Swagger UI, which displays /openapi.json."""
    return FileResponse(FOLDER / "templates" / "docs.html", headers=DOCS_HEADERS)


@cache
def _template() -> Template:
    folder = FileSystemLoader(FOLDER / "templates")
    return Environment(loader=folder, autoescape=True, undefined=StrictUndefined).get_template("page.html")


def mount_static(app: FastAPI) -> None:
    """Serve the scripts, styles and words of the pages, and Swagger UI."""
    app.state.languages = Languages()
    app.mount(STATIC_PATH, Assets(directory=FOLDER / "static", packages=[SWAGGER_UI]), name="static")
