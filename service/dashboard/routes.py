"""The dashboard at /, /memory, /learned, /versions, /device and /preferences, and the API documentation at /docs.

Nothing is loaded from another host. Each page can be read without scripts: it is rendered from the API's answers to
what its script asks first, which are in it too, so that they are drawn at once. Without the token it holds none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from service.api.caller import caller, default_profile
from service.api.session import renew_cookie
from service.dashboard.entrance import entrance
from service.dashboard.first_data import FirstData, ask
from service.dashboard.language import COOKIE, Language, Languages
from service.process.version import package_version

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent
SWAGGER_UI = ("fastapi_standalone_docs", "static/swagger")  # the package and its folder
STATIC_PATH = "/static"  # open without a token: see `service.api.middleware`
POLICY = "Content-Security-Policy"
HEADERS = {
    POLICY: "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",  # revalidated, so that a new page never runs an old script
}

NOT_KEPT = {"Cache-Control": "no-store", "Vary": "Accept-Language, Cookie"}


class Page(NamedTuple):
    """A page of the dashboard; script, template and the element `<name>-page`, which the script fills, have the name.

    `asks` is what the script asks first, with the names of the page's own query, and `more` what it asks where that
    has the name.
    """

    path: str
    name: str
    title: str
    asks: tuple[str, ...] = ()
    more: Mapping[str, tuple[str, ...]] = {}


OF_CONVERSATION = "conversation={conversation}&limit=1000"
OF_LEARNING = (
    *("info", "profiles", "adapters?profile={profile}", "jobs?profile={profile}&limit=30"),
    *("schedule/runs?profile={profile}&limit=35", "jobs?limit=1&profile={profile}"),
)
PAGES = (
    Page(
        *("/", "talk", "Talk", ("info", "conversations?profile={profile}&limit=50")),
        {"conversation": (f"interactions?{OF_CONVERSATION}", f"feedback?{OF_CONVERSATION}")},
    ),
    Page(
        "/memory",
        "memory",
        "My data",
        ("info", "profiles", "feedback?limit=50"),
        {"after": ("feedback?limit=50&after={after}",)},
    ),
    Page("/learned", "learned", "What it learned", OF_LEARNING),
    Page("/versions", "versions", "Versions", ("info", "profiles", "adapters?profile={profile}")),
    Page("/device", "device", "Device", ("info",)),
    Page("/preferences", "settings", "Settings", ("info", "settings", "models", "sessions")),  # the API has /settings
)
PAGE_PATHS = frozenset((*(page.path for page in PAGES), "/docs"))
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
    async def show(request: Request) -> HTMLResponse:
        given = {"profile": default_profile(), **request.query_params}
        asks = [*(path for name, paths in page.more.items() if name in given for path in paths), *page.asks]
        named = {name: quote(value, safe="") for name, value in given.items()}
        first = await ask(request, [path.format_map(named) for path in asks])
        response = HTMLResponse(_rendered(page, first, given, request), headers=HEADERS | NOT_KEPT)
        if not first.is_locked:
            renew_cookie(request, response)
        return response

    router.add_api_route(page.path, show, methods=["GET", "HEAD"], response_class=HTMLResponse)


def language_of(request: Request) -> Language:
    """Return the language in which a request gets its page."""
    languages: Languages = request.app.state.languages
    return languages.choose(request.cookies.get(COOKIE, ""), request.headers.get("accept-language", ""))


for _page in PAGES:
    _add_page(_page)
router.routes.extend(entrance(PAGE_PATHS).routes)


@router.get("/status", response_class=RedirectResponse)
def status() -> RedirectResponse:
    """Send who knows the earlier page of jobs and versions to where jobs are now."""
    return RedirectResponse("learned", headers=HEADERS)


@router.get("/docs", response_class=HTMLResponse)
def docs() -> FileResponse:
    """Return Swagger UI, which displays /openapi.json."""
    return FileResponse(FOLDER / "templates" / "docs.html", headers=DOCS_HEADERS)


def _rendered(page: Page, first: FirstData, query: Mapping[str, str], request: Request) -> str:
    language = language_of(request)

    def label(version: str | None) -> str:
        return language.t("base model") if version in (None, "base") else str(version)

    words = {
        "own": caller().profile,
        "t": language.t,
        "label": label,
        "language": language,
        "languages": request.app.state.languages,
    }
    template = _templates().get_template(f"{page.name}.html")
    return template.render(version=package_version(), pages=PAGES, here=page, first=first, query=query, **words)


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    templates.filters["time"] = _local_time
    return templates


def _local_time(written: str) -> str:
    """Return an ISO time as this device's clock has it."""
    return f"{datetime.fromisoformat(written).astimezone():%Y-%m-%d %H:%M}"


class PageCompression(GZipMiddleware):
    """Compresses pages and their files, never the API: its streams must go out piece by piece."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        is_page = scope["type"] == "http" and (
            (scope["path"] in PAGE_PATHS and scope["method"] in ("GET", "HEAD"))  # TGI's clients POST to /
            or scope["path"].startswith(f"{STATIC_PATH}/")
        )
        await (super().__call__ if is_page else self.app)(scope, receive, send)


def install(app: FastAPI) -> None:
    """Serve the scripts and styles of the pages and of Swagger UI; the pages are routes."""
    app.add_middleware(PageCompression)
    app.state.languages = Languages()
    app.mount(STATIC_PATH, Assets(directory=FOLDER / "static", packages=[SWAGGER_UI]), name="static")
