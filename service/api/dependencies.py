"""Dependencies of routes: the daemon, and how an exchange is kept."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from fastapi import Depends, Header, Request

from service.api.caller import caller
from service.daemon import Daemon


async def get_daemon(request: Request) -> Daemon:
    """Return the daemon that `create_app` composed, as the caller sees it."""
    daemon: Daemon = request.app.state.daemon
    own = caller().profile
    return daemon if own is None else daemon.seen_by(own)


class Keeping(NamedTuple):
    """How an exchange is kept: not at all, or under an id by which the client groups those of a conversation."""

    is_kept: bool = True
    conversation: str | None = None


def get_keeping(
    lars_learn: Annotated[
        Literal["on", "off"] | None, Header(description="off: the exchange is answered, but neither kept nor learned.")
    ] = None,
    lars_conversation: Annotated[
        str | None, Header(pattern=r"^[\w.:-]{1,64}$", description="Your id of the conversation.")
    ] = None,
) -> Keeping:
    """Return what the headers say."""
    return Keeping(lars_learn != "off", lars_conversation)


DaemonDep = Annotated[Daemon, Depends(get_daemon)]
KeepingDep = Annotated[Keeping, Depends(get_keeping)]
