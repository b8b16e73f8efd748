"""What every dialect does: a ticket for the request, its pieces as they come, the reply stored before it is told."""

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


@dataclass(frozen=True)
class Exchange:
    """A reply that is being made, and the id that it will be stored under.

    `parameters` are the client's own, for the record.
    """

    daemon: Daemon
    ticket: Ticket
    parameters: Mapping[str, Any]
    interaction_id: str

    @classmethod
    async def begin(
        cls,
        daemon: Daemon,
        request: GenerationRequest,
        parameters: Mapping[str, Any],
        keep_alive_s: float | None = None,
    ) -> Exchange:
        """See `service.serving.Serving.submit`."""
        ticket = await run_in_threadpool(daemon.serving.submit, request, keep_alive_s)
        return cls(daemon, ticket, parameters, new_interaction_id())

    async def finished(self, request: Request) -> Generation:
        """The whole reply, which is stored. Nobody waits for it when the client has gone."""
        watch = asyncio.create_task(self._cancel_when_gone(request))
        try:
            generation = await run_in_threadpool(self.ticket.result)
        finally:
            watch.cancel()
        await run_in_threadpool(self._store, generation)
        return generation

    async def pieces(self) -> AsyncIterator[Piece]:
        """The reply as it is made; it is stored after the last piece. Cancelled when nobody takes any more."""
        try:
            pieces = iter(self.ticket)
            while (piece := await run_sync(_next, pieces, abandon_on_cancel=True)) is not None:
                yield piece
            await run_in_threadpool(self._store, self.ticket.result())
        finally:
            self.ticket.cancel()  # for a finished reply it means nothing

    async def _cancel_when_gone(self, request: Request) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.ticket.cancel()

    def _store(self, generation: Generation) -> None:
        self.daemon.db.interactions.add(
            profile=self.ticket.request.profile,
            messages=self.ticket.request.messages,
            parameters=self.parameters,
            response=generation.text,
            adapter_version=generation.adapter_version,
            finish_reason=generation.finish_reason,
            prompt_tokens=generation.prompt_tokens,
            generated_tokens=generation.generated_tokens,
            seed=generation.seed,
            interaction_id=self.interaction_id,
        )


def event_stream(events: AsyncIterator[dict[str, str]]) -> EventSourceResponse:
    """The events of a reply, which are drained as other replies are when the daemon is closed."""
    return EventSourceResponse(events, shutdown_grace_period=CUT_S)


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """The next piece; None after the last one. (No StopIteration may leave a thread.)"""
    return next(pieces, None)
