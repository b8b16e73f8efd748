"""OpenAI's completions: POST /v1/completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field, WithJsonSchema

from lars_agent.example import Message
from lars_agent.runtime.request import GenerationRequest, Piece, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, KeepingDep
from service.api.errors import documented
from service.api.fields import Text, Whole, as_list
from service.api.openai.replies import STREAM, OpenAIReply, begin, envelope_of, stream_reply, whole_reply
from service.api.openai.request import MAX_LOGPROBS, TEXT, OpenAIRequest
from service.api.streams import generation_request

router = APIRouter(prefix="/v1", tags=["openai"])


class CompletionRequest(OpenAIRequest):
    """A text to continue, without a chat template."""

    prompt: Annotated[
        list[Text],
        BeforeValidator(as_list),
        Field(min_length=1, max_length=1),
        WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 1}]}),
    ]
    logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        text = self.prompt[0]
        messages = (Message(role="user", content=text),)
        return generation_request(adapter, messages, raw=text, logprobs=self.logprobs, **self._sampling())


@router.post("/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def complete(body: CompletionRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Continue a text."""
    exchange = await begin(daemon, body, keeping)
    envelope = envelope_of(exchange, "text_completion")
    if body.stream:
        return stream_reply(exchange, body, envelope, _text_choices(), {"text": ""})
    generation = await exchange.finished(request)
    logprobs = None if body.logprobs is None else completion_logprobs(generation.logprobs, 0)
    return whole_reply(envelope, generation, {"text": generation.text, "logprobs": logprobs})


def _text_choices() -> Callable[[Piece], dict[str, Any]]:
    length = 0

    def choice(piece: Piece) -> dict[str, Any]:
        nonlocal length
        logprobs = completion_logprobs(piece.logprobs, length) if piece.logprobs else None
        length += len(piece.text)
        return {"text": piece.text, "logprobs": logprobs}

    return choice


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Return log-probabilities in the shape of completions; the text of the first token begins at `offset`."""
    lengths = [len(token.chosen.text) for token in tokens]
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [{one.text: one.logprob for one in token.top} for token in tokens],
        "text_offset": list(accumulate(lengths[:-1], initial=offset)) if tokens else [],
    }
