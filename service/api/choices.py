"""Several replies to one request: an exchange for each, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from fastapi import Request

from lars_agent.errors import QueueFull
from lars_agent.runtime.request import Generation, GenerationRequest, Piece
from lars_agent.store.names import AdapterName
from service.api.streams import Exchange, calling_when_gone

QUEUE_S = 0.2  # until a full queue is tried again

ToRequest = Callable[[AdapterName], GenerationRequest]
Begin = Callable[[ToRequest], Awaitable[Exchange]]


class Choice(NamedTuple):
    """A reply, the exchange that it ends, and its number among the replies to one request."""

    number: int
    exchange: Exchange
    generation: Generation


class Event(NamedTuple):
    """A moment of a streamed reply: its beginning (`item` None), a piece of it, or its end."""

    number: int
    exchange: Exchange
    item: Piece | Generation | None


class Choices:
    """Replies to `requests`, each an exchange by `begin`; `first` is begun already.

    At most `at_once` of them run at a time, so that one client does not fill the queue. While it is full the next one
    waits: only for the first of them the client is told so.
    """

    def __init__(self, first: Exchange, begin: Begin, requests: Sequence[ToRequest], at_once: int) -> None:
        self.first, self._begin, self._requests = first, begin, requests
        self._room = asyncio.Semaphore(at_once)
        self._exchanges = {0: first}

    @classmethod
    async def start(cls, begin: Begin, requests: Sequence[ToRequest], at_once: int) -> Choices:
        """Begin the first of `requests`. Raises what `begin` raises."""
        return cls(await begin(requests[0]), begin, requests, at_once)

    def __len__(self) -> int:
        return len(self._requests)

    async def finished(self, request: Request) -> list[Choice]:
        """Return all replies, none of them recorded yet; cancel them if the client disconnects, or one fails."""
        tasks = [asyncio.create_task(self._generate(index)) for index in range(len(self))]
        try:
            async with calling_when_gone(request, self._cancel):
                return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            self._cancel()

    async def events(self) -> AsyncIterator[Event]:
        """Yield the replies as they are generated, in the order in which they come, each recorded at its end."""
        came = asyncio.Queue[Event | BaseException | None]()
        tasks = [asyncio.create_task(self._stream(index, came)) for index in range(len(self))]
        try:
            left = len(tasks)
            while left:
                event = await came.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    left -= 1
                else:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            self._cancel()

    def _cancel(self) -> None:
        for exchange in self._exchanges.values():
            exchange.ticket.cancel()  # no effect on a finished reply

    async def _exchange(self, index: int) -> Exchange:
        while index not in self._exchanges:
            try:
                self._exchanges[index] = await self._begin(self._requests[index])
            except QueueFull:
                await asyncio.sleep(QUEUE_S)
        return self._exchanges[index]

    async def _generate(self, index: int) -> Choice:
        async with self._room:
            exchange = await self._exchange(index)
            return Choice(index, exchange, await exchange.generated())

    async def _stream(self, index: int, came: asyncio.Queue[Event | BaseException | None]) -> None:
        try:
            async with self._room:
                exchange = await self._exchange(index)
                came.put_nowait(Event(index, exchange, None))
                async for piece in exchange.pieces():
                    came.put_nowait(Event(index, exchange, piece))
                came.put_nowait(Event(index, exchange, exchange.ticket.result()))
            came.put_nowait(None)
        except Exception as error:
            came.put_nowait(error)
