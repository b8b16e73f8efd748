"""What every dialect does: a ticket for the request, its pieces as they come, the reply recorded before it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from lars_agent.runtime.request import Generation, GenerationRequest, Piece, Ticket
from service.daemon import Daemon
from service.db.interactions import new_interaction_id
from service.lifecycle.closing import CUT_S


@dataclass
class Exchange:
    """A reply that is being made, and the id that it will be recorded under; `recorded_id` is that id once it has been.

    `parameters` are the client's own, for the record.
    """

    daemon: Daemon
    ticket: Ticket
    parameters: Mapping[str, Any]
    interaction_id: str
    recorded_id: str | None = None

    @classmethod
    async def begin(
        cls,
        daemon: Daemon,
        request: GenerationRequest,
        parameters: Mapping[str, Any],
        keep_alive_s: float | None = None,
    ) -> Exchange:
        """See `service.model_host.ModelHost.submit`."""
        ticket = await run_in_threadpool(daemon.serving.submit, request, keep_alive_s)
        return cls(daemon, ticket, parameters, new_interaction_id())

    async def finished(self, request: Request) -> Generation:
        """The whole reply, which has been recorded. Nobody waits for it when the client has gone."""
        watch = asyncio.create_task(self._cancel_when_gone(request))
        try:
            generation = await run_in_threadpool(self.ticket.result)
        finally:
            watch.cancel()
        await run_in_threadpool(self._record, generation)
        return generation

    async def pieces(self) -> AsyncIterator[Piece]:
        """The reply as it is made; it is recorded after the last piece. Cancelled when nobody takes any more."""
        try:
            pieces = iter(self.ticket)
            while (piece := await run_sync(_next, pieces, abandon_on_cancel=True)) is not None:
                yield piece
            await run_in_threadpool(self._record, self.ticket.result())
        finally:
            self.ticket.cancel()  # for a finished reply it means nothing

    async def _cancel_when_gone(self, request: Request) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.ticket.cancel()

    def _record(self, generation: Generation) -> None:
        recorder, request = self.daemon.recorder, self.ticket.request
        if recorder.keep(self.interaction_id, request, self.parameters, generation):
            self.recorded_id = self.interaction_id


def event_stream(events: AsyncIterator[dict[str, str]]) -> EventSourceResponse:
    """The events of a reply, which are drained as other replies are when the daemon is closed."""
    return EventSourceResponse(events, shutdown_grace_period=CUT_S)


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """The next piece; None after the last one. (No StopIteration may leave a thread.)"""
    return next(pieces, None)
