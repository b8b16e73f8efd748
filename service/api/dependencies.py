"""Dependencies of routes: the daemon, and whether a reply may be learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Depends, Header, Request

from service.daemon import Daemon


async def get_daemon(request: Request) -> Daemon:
    """Return the daemon that `create_app` composed."""
    daemon: Daemon = request.app.state.daemon
    return daemon


def get_keep(
    lars_learn: Annotated[
        Literal["on", "off"] | None, Header(description="off: the exchange is answered, but neither kept nor learned.")
    ] = None,
) -> bool:
    """Return whether the header lets the exchange be kept."""
    return lars_learn != "off"


DaemonDep = Annotated[Daemon, Depends(get_daemon)]
KeepDep = Annotated[bool, Depends(get_keep)]
