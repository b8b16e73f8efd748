"""Clients' connections: limits on their number and on the time they take, so that silent ones keep nobody out.

As nginx does, a full server sheds a connection that waits for a request before it refuses a new one: the one that has
been quiet for longest, so that a new one can ask for as long as others take to fill all places. A connection is shed
only while it owes something (a request, the rest of a body, the taking of an answer), not while a request is answered,
however long that takes. A part of the places is this device's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from service.api.errors import error_response
from service.process.addresses import THIS_DEVICE, ip_of, network_of
from service.process.connection_counts import ConnectionCounts
from service.process.open_files import open_files_left
from service.settings.server import Server

log = structlog.get_logger(__name__)

BYTES_A_SECOND = 10_000  # a body that comes faster gets more time
ACCEPTED_AT_ONCE = 32  # connections that asyncio accepts before it lets one of them be counted
ACCEPTED_UNCOUNTED = 4 * ACCEPTED_AT_ONCE  # from accept to the close of what is shed, the loop takes four rounds
QUEUE = 1024  # connections that wait in the kernel to be accepted
RESERVED_FILES = 200  # for the database, the engine, the worker, and what requests open
SWEEP_TICKS = 10  # uvicorn's, of 0.1 s
FULL = "the daemon has too many connections (server.max_connections_per_address, server.max_connections); try again"
LATE = "the request did not arrive within server.header_timeout_s and server.body_timeout_s; send it again, faster"


class Connections:
    """The open connections, those first that have been quiet for longest; `server` has their limits.

    `counts` is kept up to date, for the metrics.
    """

    def __init__(self, server: Server, counts: ConnectionCounts) -> None:
        self.server, self.counts = server, counts
        most = open_files_left(server.max_connections, RESERVED_FILES + ACCEPTED_UNCOUNTED)
        self._from_address = min(server.max_connections_per_address, most // 2)
        self._from_others = most - self._from_address
        self._open: dict[Connection, None] = {}
        self._counts = Counter[str]()
        self._patience_s = max(server.header_timeout_s, server.body_timeout_s, server.idle_timeout_s)

    def add(self, new: Connection) -> None:
        """Count it. Where there are too many, another one is ended, or it itself if all others are being answered."""
        self._open[new] = None
        self._counts[new.address] += 1
        self.counts.accepted += 1
        self.counts.open = len(self._open)
        if self._counts[new.address] > self._from_address:
            self._shed(new, lambda one: one.address == new.address)
        elif new.address != THIS_DEVICE and len(self._open) - self._counts[THIS_DEVICE] > self._from_others:
            self._shed(new, lambda one: one.address != THIS_DEVICE)

    def remove(self, one: Connection) -> None:
        """Count it no more."""
        if one in self._open:
            del self._open[one]
            self.counts.open = len(self._open)
            self._counts[one.address] -= 1
            if not self._counts[one.address]:
                del self._counts[one.address]

    def renew(self, one: Connection) -> None:
        """Put it last: it has just begun or finished something."""
        if one in self._open:
            self._open[one] = self._open.pop(one)

    def sweep(self) -> None:
        """End every connection that has taken too long."""
        for one in list(self._open):
            one.check()

    def _shed(self, new: Connection, belongs: Callable[[Connection], bool]) -> None:
        """End the one that has been quiet for longest, else the one whose time is over first."""
        soon = new.since + self._patience_s  # later for a body that comes fast
        others = (one for one in self._open if one is not new and belongs(one))
        found = next((one for one in others if one.deadline() <= soon), None)
        if found is None:
            owing = (one for one in self._open if one is not new and belongs(one) and one.deadline() < math.inf)
            found = min(owing, key=Connection.deadline, default=None)
        log.warning("connections_full", address=new.address)
        self.counts.ended["full"] += 1
        (found or new).end(503, FULL, unasked=found is None)


class Connection(H11Protocol):
    """One client's connection, which knows until when its client may keep it waiting."""

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._connections, self._limits = connections, connections.server
        self.address, self.since = "", 0.0  # when it began what it does now
        self._has_served, self._received = False, 0
        self._stalled_since: float | None = None

    def connection_made(self, transport: Any) -> None:
        """Find it a place."""
        super().connection_made(transport)
        self.address, self.since = address_of(self.client, self.server), self.loop.time()
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free its place."""
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass it on; time begins with a request's first byte and anew with its body, not with any other byte."""
        if self._has_served and self._is_quiet():
            self._begin()
        cycle, self._received = self.cycle, self._received + len(data)
        super().data_received(data)
        if self.cycle is not cycle:
            self._begin()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._has_served = True
        self._begin()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to count the time in which the client takes nothing of what it is sent."""
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on sending."""
        self._stalled_since = None
        super().resume_writing()

    def deadline(self) -> float:
        """Return the time of the loop up to which its client may keep it waiting; infinite while the client waits."""
        limits = self._limits
        if self._stalled_since is not None:
            return self._stalled_since + limits.send_timeout_s
        if self._is_busy():
            if not self.cycle.more_body or self.flow.read_paused:
                return math.inf
            return self.since + limits.body_timeout_s + self._received / BYTES_A_SECOND
        idle = self._has_served and self._is_quiet()
        return self.since + (limits.idle_timeout_s if idle else limits.header_timeout_s)

    def check(self) -> None:
        """End it if it has taken too long."""
        if self._stalled_since is None and self.transport.is_closing():
            self._stalled_since = self.loop.time()  # what was sent last is not taken yet
        if self.loop.time() > self.deadline():
            self._connections.counts.ended["late"] += 1
            self.end(408, LATE)

    def end(self, status: int, message: str, unasked: bool = False) -> None:
        """Close it now, with an error if a request has begun that has no answer yet, or `unasked`."""
        self._connections.remove(self)
        may_answer = self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing()
        if may_answer and (unasked or not self._is_quiet()):
            response = error_response(self.scope["path"] if self._is_busy() else "", status, message)
            headers = [*response.raw_headers, (b"connection", b"close")]
            start = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            events = (start, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        if self._is_busy():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP as every other error."""
        self.end(400, "the request is not HTTP/1.1, or its header is too long", unasked=True)

    def _begin(self) -> None:
        self.since, self._received = self.loop.time(), 0
        self._connections.renew(self)

    def _is_busy(self) -> bool:
        """Return True from the end of a request's header until it is answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_quiet(self) -> bool:
        """Return True if no byte of a next request has come."""
        return not self._is_busy() and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]


class LimitedServer(uvicorn.Server):
    """Uvicorn's server with these limits on its connections."""

    def __init__(self, app: ASGIApp, server: Server, counts: ConnectionCounts | None = None, **options: Any) -> None:
        self._connections = Connections(server, counts or ConnectionCounts())
        config = uvicorn.Config(
            app,
            host=server.host,
            port=server.port,
            http=partial(Connection, self._connections),  # type: ignore[arg-type]  # called as the class would be
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=math.ceil(server.idle_timeout_s),
            **options,
        )
        super().__init__(config)

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, with a longer queue than asyncio empties at once."""
        await super().startup(sockets)  # type: ignore[arg-type]
        for listener in self.servers if self.started else ():
            for one in listener.sockets:
                with one.dup() as own:
                    own.listen(QUEUE)

    async def on_tick(self, counter: int) -> bool:
        """End what has taken too long; return True to stop."""
        if counter % SWEEP_TICKS == 0:
            self._connections.sweep()
        return await super().on_tick(counter)


def address_of(client: tuple[str, int] | None, server: tuple[str, int | None] | None) -> str:
    """Return the address that a connection counts for: this device is one, and so is a network of IPv6."""
    name = client[0] if client else ""
    found = ip_of(name)
    if found is None:
        return name
    return THIS_DEVICE if found.is_loopback or (server and name == server[0]) else network_of(found)
