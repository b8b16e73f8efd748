"""Metrics in Prometheus's text format."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from service.api.dependencies import DaemonDep
from service.api.errors import documented

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=PlainTextResponse, responses=documented(503))
def metrics(daemon: DaemonDep) -> PlainTextResponse:
    """Metrics in Prometheus's text format; no name, label or value holds personal text."""
    return PlainTextResponse(generate_latest(daemon.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
