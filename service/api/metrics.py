"""Metrics in Prometheus's text format."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.responses import Response

from service.api.dependencies import DaemonDep
from service.api.errors import documented

router = APIRouter(tags=["operation"])

TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The metrics.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/metrics", response_class=Response, responses=TEXT | documented(503))
def metrics(daemon: DaemonDep) -> Response:
    """Metrics in Prometheus's text format; no name, label or value holds personal text."""
    return Response(generate_latest(daemon.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
