"""OpenAI's chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from lars_agent.runtime.request import GenerationRequest, Piece, TokenChoice, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, KeepingDep
from service.api.errors import documented
from service.api.fields import MAX_MESSAGES, Switch, Text, Turn, Whole, ends_with_user, to_messages
from service.api.openai.replies import STREAM, OpenAIReply, begin, envelope_of, stream_reply, whole_reply
from service.api.openai.request import MAX_LOGPROBS, TEXT, TEXT_PART, OpenAIRequest
from service.api.streams import generation_request

router = APIRouter(prefix="/v1", tags=["openai"])


def _text_of_parts(value: Any) -> Any:
    """Join text parts; anything else is left for the field to refuse."""
    if isinstance(value, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    return "" if value is None else value


class OpenAITurn(Turn):
    """A message; its content may be a list of text parts."""

    role: Annotated[
        Literal["system", "user", "assistant"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
        WithJsonSchema({"type": "string", "enum": ["system", "user", "assistant", "developer"]}),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_text_of_parts),
        WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT_PART}, {"type": "null"}]}),
    ]
    name: str | None = Field(default=None, max_length=100, description="Accepted without effect.")


class ChatRequest(OpenAIRequest):
    """A conversation to reply to."""

    messages: Annotated[list[OpenAITurn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(ends_with_user)]
    max_completion_tokens: Whole | None = Field(default=None, ge=1, le=1_000_000)
    logprobs: Switch | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)

    def to_request(self, adapter: AdapterName) -> GenerationRequest:
        """Return the engine's request."""
        sampling = self._sampling()
        sampling["max_new_tokens"] = self.max_completion_tokens or self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return generation_request(adapter, to_messages(self.messages), logprobs=logprobs, **sampling)


@router.post("/chat/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def chat(body: ChatRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a conversation."""
    exchange = await begin(daemon, body, keeping)
    envelope = envelope_of(exchange, "chat.completion")
    if body.stream:
        envelope |= {"object": "chat.completion.chunk"}
        first = {"delta": {"role": "assistant", "content": ""}}
        return stream_reply(exchange, body, envelope, _chat_choice, {"delta": {}}, [first])
    generation = await exchange.finished(request)
    message = {"role": "assistant", "content": generation.text, "refusal": None}
    logprobs = chat_logprobs(generation.logprobs) if body.logprobs else None
    return whole_reply(envelope, generation, {"message": message, "logprobs": logprobs})


def _chat_choice(piece: Piece) -> dict[str, Any]:
    logprobs = chat_logprobs(piece.logprobs) if piece.logprobs else None
    return {"delta": {"content": piece.text}, "logprobs": logprobs}


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return log-probabilities in the shape of chat completions."""
    content = [_choice(token.chosen) | {"top_logprobs": [_choice(one) for one in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": choice.logprob, "bytes": list(choice.text.encode())}
