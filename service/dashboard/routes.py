"""The dashboard's page and its files. The page holds no data: its script reads the JSON that every client reads."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.api.operation import package_version

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent
STATIC_PATH = "/static"  # `service.middleware` lets it pass without a token
POLL_S = 3
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked for again: a new version's page never meets an old script
}


class Assets(StaticFiles):
    """The page's own script and style, with the page's own headers."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """The file, or 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


@router.get("/", response_class=HTMLResponse)
def page() -> HTMLResponse:
    """The page."""
    folder = FileSystemLoader(FOLDER / "templates")
    template = Environment(loader=folder, autoescape=True, undefined=StrictUndefined).get_template("index.html")
    return HTMLResponse(template.render(version=package_version(), poll_s=POLL_S), headers=HEADERS)


def mount_static(app: FastAPI) -> None:
    """`app` serves the page's script and style."""
    app.mount(STATIC_PATH, Assets(directory=FOLDER / "static"), name="static")
