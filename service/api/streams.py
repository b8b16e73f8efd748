"""Generation for every API dialect: submit the request, stream or await the reply, record it before answering."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from anyio.to_thread import run_sync
from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from lars_agent.english.subjects import refers_back
from lars_agent.errors import LarsError
from lars_agent.example import Message
from lars_agent.runtime.request import Generation, GenerationRequest, PastAnswer, Piece, Ticket
from lars_agent.store.names import AdapterName
from service.api.caller import owners_wish
from service.api.dependencies import Keeping
from service.api.errors import UNEXPECTED, ascii_json, error_body, status_of
from service.api.fields import RecalledBody
from service.api.model_names import model_names
from service.api.turns import split_prefill
from service.daemon import Daemon
from service.db.interactions import new_interaction_id
from service.db.recall import Recalled
from service.process.shutdown import CUT_S

log = structlog.get_logger(__name__)

CANDIDATES = 12  # corrections of which the engine takes the nearest
MIN_TEMPERATURE = 0.01  # logits divided by less overflow; 0 is greedy


@dataclass
class Exchange:
    """A request and its reply. `recorded_id` is the `interaction_id` once the reply has been recorded.

    `parameters` are recorded as the client sent them, as `keeping` says; `recalled` are the corrections in the prompt,
    the nearest first.
    """

    daemon: Daemon
    ticket: Ticket
    parameters: Mapping[str, Any]
    interaction_id: str
    keeping: Keeping
    recalled: Sequence[Recalled] = ()
    recorded_id: str | None = None
    began: float = field(default_factory=time.monotonic)

    @classmethod
    async def begin(
        cls,
        daemon: Daemon,
        model: str | None,
        to_request: Callable[[AdapterName], GenerationRequest],
        parameters: Mapping[str, Any],
        keeping: Keeping,
        keep_alive_s: float | None = None,
        recall: bool | None = None,
        interaction_id: str | None = None,
    ) -> Exchange:
        """Submit the request to the adapter that `model` names. See `ModelNames.resolve`, `ModelHost.submit`.

        `recall` says whether past corrections are put into the prompt; None is the profile's setting.
        """

        def submit() -> tuple[Ticket, Sequence[Recalled]]:
            adapter = model_names(daemon).resolve(model)
            request, found = with_recall(daemon, to_request(adapter), recall)
            request = replace(request, cache_scope=daemon.profile or "")
            ticket = daemon.model_host.submit(request, owners_wish(keep_alive_s))
            recalled = [replace(found[index], score=score) for index, score in ticket.recalled]
            ids = {one.feedback_id for one in recalled}
            if daemon.db.feedback.known(ids) != ids:  # deleted since it was found
                ticket.cancel()
            return ticket, recalled

        began = time.monotonic()
        ticket, recalled = await run_in_threadpool(submit)
        name = interaction_id or new_interaction_id(daemon.db.now())
        return cls(daemon, ticket, parameters, name, keeping, recalled, began=began)

    @property
    def replier(self) -> str:
        """Name of the version that replies: `default@v1`, or `base`."""
        return AdapterName(self.ticket.request.profile, self.ticket.version).label

    @property
    def recalled_bodies(self) -> list[dict[str, Any]]:
        """The corrections in the prompt, as every dialect shows them."""
        return [RecalledBody.model_validate(one).model_dump() for one in self.recalled]

    async def finished(self, request: Request) -> Generation:
        """Return the whole reply after recording it; cancel it if the client disconnects."""
        async with calling_when_gone(request, self.ticket.cancel):
            generation = await self.generated()
        await self.record(generation)
        return generation

    async def generated(self) -> Generation:
        """Return the whole reply, which is not recorded yet."""
        with self.daemon.metrics.counting_failure():
            return await run_in_threadpool(self.ticket.result)

    async def record(self, generation: Generation) -> None:
        """Count the reply and record it."""
        await run_in_threadpool(self._record, generation)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the reply as it is generated and record it after the last piece; cancel it if the caller stops."""
        try:
            pieces = iter(self.ticket)  # its end is None below, as no StopIteration may leave a thread
            with self.daemon.metrics.counting_failure():
                while (piece := await run_sync(next, pieces, None, abandon_on_cancel=True)) is not None:
                    yield piece
            await self.record(self.ticket.result())
        finally:
            self.ticket.cancel()  # no effect on a finished reply

    def _record(self, generation: Generation) -> None:
        self.daemon.metrics.count_reply(generation, time.monotonic() - self.began)
        if not self.keeping.is_kept or not self.ticket.request.max_new_tokens:  # the prompt was only read
            return
        recorder, request = self.daemon.recorder, self.ticket.request
        recalled = [one.feedback_id for one in self.recalled]
        record = (self.interaction_id, request, self.parameters, generation, recalled, self.keeping.conversation)
        if recorder.keep(*record):
            self.recorded_id = self.interaction_id


@contextlib.asynccontextmanager
async def calling_when_gone(request: Request, cancel: Callable[[], None]) -> AsyncIterator[None]:
    """Call `cancel` if the client disconnects within the block."""

    async def watch() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def with_recall(
    daemon: Daemon, request: GenerationRequest, recall: bool | None
) -> tuple[GenerationRequest, Sequence[Recalled]]:
    """Return the request with the profile's corrections that may answer it, and these.

    The base model gets none unasked, nor does the reply to a tool's result, which is newer.
    """
    settings, last = daemon.settings.recall, request.messages[-1]["role"] if request.messages else "system"
    if request.raw is not None or last == "system":
        return request, ()
    if recall is None:
        may_recall = request.version is not None and last != "tool"
        recall = may_recall and settings.profiles.get(request.profile, settings.enabled)
    is_local = settings.locality and request.version is not None
    if not recall and not is_local:
        return request, ()
    question, is_first = request.question, sum(one["role"] == "user" for one in request.messages) == 1
    found = daemon.db.recall.search(request.profile, question, CANDIDATES)
    taught = found.general if is_local and (is_first or not refers_back(question)) else None
    request = replace(request, is_foreign=is_local and found.is_foreign, taught=taught)
    if not recall and not request.may_be_closed:
        return request, ()
    past = tuple(
        PastAnswer(one.question, one.answer, one.fit) for one in found.corrections
    )  # they tell if it is closed
    request = replace(request, recalled=past, recall_limit=settings.max_corrections if recall else 0)
    request = replace(request, recall_strength=settings.strength, recall_tokens=settings.max_tokens)
    return request, found.corrections


Encoder = Callable[[Piece | Generation], list[dict[str, Any]]]  # a dialect's events for a piece, or for the whole reply


def encode_stream(
    exchange: Exchange,
    encoder: Encoder,
    first: Sequence[dict[str, Any]] = (),
    error_event: Callable[[int, str], dict[str, Any]] = error_body,
) -> AsyncIterator[str]:
    """Yield `first` and the events of the reply as JSON; an error becomes an event, as the status has been sent."""
    return to_lines(_events(exchange, encoder, first), error_event)


def encode_events(
    exchange: Exchange,
    encoder: Encoder,
    first: Sequence[dict[str, Any]],
    error_event: Callable[[int, str], dict[str, Any]],
) -> AsyncIterator[dict[str, Any]]:
    """Yield `first` and the events of the reply; an error becomes an event, as the status has been sent."""
    return with_error(_events(exchange, encoder, first), error_event)


async def _events(
    exchange: Exchange, encoder: Encoder, first: Sequence[dict[str, Any]]
) -> AsyncIterator[dict[str, Any]]:
    for event in first:
        yield event
    async for piece in exchange.pieces():
        for event in encoder(piece):
            yield event
    for event in encoder(exchange.ticket.result()):
        yield event


async def to_lines(
    events: AsyncIterator[dict[str, Any]], error_event: Callable[[int, str], dict[str, Any]] = error_body
) -> AsyncIterator[str]:
    """Yield the events of a reply as JSON; an error becomes an event."""
    async for event in with_error(events, error_event):
        yield ascii_json(event)


async def with_error(
    events: AsyncIterator[dict[str, Any]], error_event: Callable[[int, str], dict[str, Any]]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a reply; an error becomes an event, as the status has been sent."""
    try:
        async for event in events:
            yield event
    except LarsError as error:
        yield error_event(status_of(error), str(error))
    except Exception:
        log.exception("stream_broke_off")
        yield error_event(500, UNEXPECTED)


async def named_events(events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[ServerSentEvent]:
    """Yield each event with its `type` as its name, as OpenAI's responses and Anthropic's messages have it."""
    async for event in events:
        yield ServerSentEvent(ascii_json(event), event=event["type"])


def event_stream(events: AsyncIterator[str] | AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """Respond with server-sent events; on shutdown they may go on until `CUT_S`, as other replies may."""
    return EventSourceResponse(events, shutdown_grace_period=CUT_S)


def generation_request(adapter: AdapterName, messages: tuple[Message, ...], **values: Any) -> GenerationRequest:
    """Return the engine's request; a value of None means the engine's default.

    If the last of the `messages` is the assistant's, the reply goes on with it.
    """
    messages, prefill = split_prefill(messages)
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("temperature", 0) < MIN_TEMPERATURE:
        given["temperature"] = 0.0
    return GenerationRequest(
        messages=messages, profile=adapter.profile, version=adapter.version, prefill=prefill, **given
    )
