"""Requests that a reverse proxy passes on: whose they are, and how they came to the proxy."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.process.addresses import THIS_DEVICE, ip_of, network_of
from service.settings.server import Server

FORWARDING = ("forwarded", "via", "x-real-ip")  # headers, beside those that begin with the prefix
FORWARDING_PREFIX = "x-forwarded-"


class ForwardedClient:
    """Puts the client that a trusted proxy names, and the scheme that it was called by, in place of the proxy's."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app: ASGIApp = ProxyHeadersMiddleware(app, list(server.trusted_proxies))  # type: ignore[arg-type, assignment]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await self._app(scope, receive, send)


def is_forwarding(header: str) -> bool:
    """Return True for a header by which a proxy tells that it passes a request on."""
    return header in FORWARDING or header.startswith(FORWARDING_PREFIX)


def client_of(scope: Scope) -> str:
    """Return the address that a request counts for: this device, or another one's, or a network of IPv6.

    This device asks if the connection comes over loopback, and no header tells of a proxy that may ask for others.
    """
    address = ip_of((scope.get("client") or ("",))[0])
    if address is None or not address.is_loopback:
        return network_of(address)
    headers = (name.decode("latin-1").lower() for name, _ in scope["headers"])
    return network_of(address) if any(map(is_forwarding, headers)) else THIS_DEVICE
