"""OpenAI's chat completions: POST /v1/chat/completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from lars_agent.runtime.request import Generation, GenerationRequest, Piece, TokenChoice, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.dependencies import DaemonDep, KeepingDep
from service.api.errors import documented
from service.api.fields import Switch, Text, Whole
from service.api.openai.replies import STREAM, OpenAIReply, begin, stream_reply, whole_reply
from service.api.openai.request import MAX_LOGPROBS, TEXT, TEXT_PART, UNLIMITED_TOKENS, MaxTokens, OpenAIRequest
from service.api.streams import generation_request
from service.api.tools import ToolChoice, Tools, ToolTurn, openai_calls, to_messages, tool_use
from service.api.turns import MAX_MESSAGES, asks

router = APIRouter(prefix="/v1", tags=["openai"])


def _text_of_parts(value: Any) -> Any:
    """Join text parts; anything else is left for the field to refuse."""
    if isinstance(value, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    return "" if value is None else value


class OpenAITurn(ToolTurn):
    """A message; its content may be a list of text parts."""

    role: Annotated[
        Literal["system", "user", "assistant", "tool"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
        WithJsonSchema({"type": "string", "enum": ["system", "user", "assistant", "tool", "developer"]}),
    ]
    content: Annotated[
        Text,
        BeforeValidator(_text_of_parts),
        WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT_PART}, {"type": "null"}]}),
    ]


class ChatRequest(OpenAIRequest):
    """A conversation to reply to."""

    messages: Annotated[list[OpenAITurn], Field(min_length=1, max_length=MAX_MESSAGES), AfterValidator(asks)]
    max_completion_tokens: MaxTokens = None
    logprobs: Switch | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    tools: Tools | None = Field(default=None, description="Functions that the reply may call.")
    tool_choice: ToolChoice = Field(default=None, description="Whether it may or must call one; auto by default.")
    parallel_tool_calls: Switch | None = Field(default=None, description="false: at most one call.")

    def to_request(self, adapter: AdapterName, number: int = 0) -> GenerationRequest:
        """Return the engine's request; without a number of tokens the daemon's own limit holds, as with -1."""
        sampling = self._sampling(number)
        given = [most for most in (self.max_completion_tokens, self.max_tokens) if most not in (None, -1)]
        sampling["max_new_tokens"] = given[0] if given else UNLIMITED_TOKENS
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        tools = tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)
        return generation_request(adapter, to_messages(self.messages), logprobs=logprobs, tools=tools, **sampling)


@router.post("/chat/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def chat(body: ChatRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Reply to a conversation."""
    choices = await begin(daemon, body, keeping)
    if body.stream:
        first = {"delta": {"role": "assistant", "content": ""}}
        return stream_reply(choices, body, "chat.completion.chunk", _chunk_choices(), {"delta": {}}, [first])

    def choice(generation: Generation) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": generation.text, "refusal": None}
        if generation.calls:
            message |= {"content": generation.text or None, "tool_calls": openai_calls(generation.calls)}
        return {"message": message, "logprobs": chat_logprobs(generation.logprobs) if body.logprobs else None}

    return await whole_reply(choices, body, request, "chat.completion", choice)


def _chunk_choices() -> Callable[[int, Piece], dict[str, Any]]:
    counts = Counter[int]()  # of the calls so far, by the choice's number

    def choice(index: int, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": piece.text}
        if piece.calls:
            calls = enumerate(openai_calls(piece.calls), counts[index])
            delta = {"tool_calls": [{"index": number, **call} for number, call in calls]}
            counts[index] += len(piece.calls)
        return {"delta": delta, "logprobs": chat_logprobs(piece.logprobs) if piece.logprobs else None}

    return choice


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return log-probabilities in the shape of chat completions."""
    content = [_choice(token.chosen) | {"top_logprobs": [_choice(one) for one in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def _choice(choice: TokenChoice) -> dict[str, Any]:
    return {"token": choice.text, "logprob": choice.logprob, "bytes": list(choice.text.encode())}
