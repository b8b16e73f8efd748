"""What every dialect does: a ticket for the request, its pieces as they come, the reply recorded before it is told."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from lars_agent.runtime.request import Generation, GenerationRequest, Piece, Ticket
from lars_agent.store.names import AdapterName
from service.api.model_names import model_names
from service.daemon import Daemon
from service.db.interactions import new_interaction_id
from service.process.shutdown import CUT_S


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
    began: float = field(default_factory=time.monotonic)

    @classmethod
    async def begin(
        cls,
        daemon: Daemon,
        model: str | None,
        to_request: Callable[[AdapterName], GenerationRequest],
        parameters: Mapping[str, Any],
        keep_alive_s: float | None = None,
    ) -> Exchange:
        """Submit the request to the adapter that `model` names. See `ModelNames.resolve`, `ModelHost.submit`."""

        def submit() -> Ticket:
            adapter = model_names(daemon).resolve(model)
            return daemon.serving.submit(to_request(adapter), keep_alive_s)

        began = time.monotonic()
        ticket = await run_in_threadpool(submit)
        return cls(daemon, ticket, parameters, new_interaction_id(), began=began)

    @property
    def replier(self) -> str:
        """Name of the version that replies, `default@v1`, or `base`."""
        return AdapterName(self.ticket.request.profile, self.ticket.version).label

    async def finished(self, request: Request) -> Generation:
        """The whole reply, which has been recorded. Nobody waits for it when the client has gone."""
        watch = asyncio.create_task(self._cancel_when_gone(request))
        try:
            with self.daemon.metrics.counting_failure():
                generation = await run_in_threadpool(self.ticket.result)
        finally:
            watch.cancel()
        await run_in_threadpool(self._record, generation)
        return generation

    async def pieces(self) -> AsyncIterator[Piece]:
        """The reply as it is made; it is recorded after the last piece. Cancelled when nobody takes any more."""
        try:
            pieces = iter(self.ticket)
            with self.daemon.metrics.counting_failure():
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
        self.daemon.metrics.count_reply(generation, time.monotonic() - self.began)
        recorder, request = self.daemon.recorder, self.ticket.request
        if recorder.keep(self.interaction_id, request, self.parameters, generation):
            self.recorded_id = self.interaction_id


def event_stream(events: AsyncIterator[dict[str, str]]) -> EventSourceResponse:
    """The events of a reply, which are drained as other replies are when the daemon is closed."""
    return EventSourceResponse(events, shutdown_grace_period=CUT_S)


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """The next piece; None after the last one. (No StopIteration may leave a thread.)"""
    return next(pieces, None)
