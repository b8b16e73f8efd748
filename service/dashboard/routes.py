"""The dashboard at /, /memory, /learned, /versions, /device and /preferences, and the API documentation at /docs.

Nothing is loaded from another host. The pages contain no data: their scripts read the same JSON as every client.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

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


@router.head("/", include_in_schema=False)
@router.get("/", response_class=HTMLResponse)
def talk() -> HTMLResponse:
    """Return the page to talk and to correct."""
    return _page("talk.html")


@router.get("/memory", response_class=HTMLResponse)
def memory() -> HTMLResponse:
    """Return the page of a person's own data."""
    return _page("memory.html")


@router.get("/learned", response_class=HTMLResponse)
def learned() -> HTMLResponse:
    """Return the page of what was learned, with two versions side by side."""
    return _page("learned.html")


@router.get("/versions", response_class=HTMLResponse)
def versions() -> HTMLResponse:
    """Return the page of the versions, to go back to one."""
    return _page("versions.html")


@router.get("/device", response_class=HTMLResponse)
def device() -> HTMLResponse:
    """Return the page of the device: whether it may learn now, its memory and problems."""
    return _page("device.html")


@router.get("/status", response_class=RedirectResponse)
def status() -> RedirectResponse:
    """Send who knows the earlier page of jobs and versions to where jobs are now."""
    return RedirectResponse("learned", headers=HEADERS)


@router.get("/preferences", response_class=HTMLResponse)
def settings() -> HTMLResponse:
    """Return the page of the settings, which are at /settings themselves."""
    return _page("settings.html")


@router.get("/docs", response_class=HTMLResponse)
def docs() -> FileResponse:
    """Return Swagger UI, which displays /openapi.json."""
    return FileResponse(FOLDER / "templates" / "docs.html", headers=DOCS_HEADERS)


def _page(name: str) -> HTMLResponse:
    folder = FileSystemLoader(FOLDER / "templates")
    template = Environment(loader=folder, autoescape=True, undefined=StrictUndefined).get_template(name)
    return HTMLResponse(template.render(version=package_version()), headers=HEADERS)


def mount_static(app: FastAPI) -> None:
    """Serve the scripts and styles of the pages and of Swagger UI."""
    app.mount(STATIC_PATH, Assets(directory=FOLDER / "static", packages=[SWAGGER_UI]), name="static")
