"""What a page holds when it is sent: the API's own answers to what its script will ask first.

They are asked for as the visitor, through every guard, so that the page of somebody without the token holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from httpx import ASGITransport, AsyncClient
from starlette.requests import Request

from service.api.forwarded import is_forwarding
from service.api.middleware import OWN_SITES

PASSED = ("authorization", "cookie", "host", "origin")  # by what a visitor is known, besides a proxy's headers
UNAUTHORIZED = 401


@dataclass(frozen=True)
class FirstData:
    """The answers by path, as scripts name them; those that the API refused are missing."""

    answers: dict[str, Any] = field(default_factory=dict)
    is_locked: bool = False

    def of(self, resource: str) -> Any:
        """Return the first answer of that resource, whatever was asked of it; None without one."""
        return next((answer for path, answer in self.answers.items() if path.partition("?")[0] == resource), None)


async def ask(request: Request, paths: Sequence[str]) -> FirstData:
    """Ask this application for `paths` as who asks for the page."""
    visitor = (request.client.host, request.client.port) if request.client else ("", 0)
    transport = ASGITransport(request.app, raise_app_exceptions=False, client=visitor)
    is_own = request.headers.get("sec-fetch-site", "none") in OWN_SITES  # a session counts on our own pages alone
    passed = [pair for pair in request.headers.items() if pair[0] in PASSED or is_forwarding(pair[0])]
    headers = [pair for pair in passed if is_own or pair[0] != "cookie"]
    async with AsyncClient(transport=transport, base_url="http://daemon", headers=headers, trust_env=False) as client:
        replies = [await client.get(f"/{path}") for path in paths[:1]]  # alone: a wrong token is counted once
        if not any(reply.status_code == UNAUTHORIZED for reply in replies):
            replies += await asyncio.gather(*(client.get(f"/{path}") for path in paths[1:]))
    answers = {path: reply.json() for path, reply in zip(paths, replies, strict=False) if reply.is_success}
    return FirstData(answers, any(reply.status_code == UNAUTHORIZED for reply in replies))
