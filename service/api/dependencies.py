"""The daemon as a dependency of routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.daemon import Daemon


async def get_daemon(request: Request) -> Daemon:
    """Return the daemon that `create_app` composed."""
    daemon: Daemon = request.app.state.daemon
    return daemon


DaemonDep = Annotated[Daemon, Depends(get_daemon)]
