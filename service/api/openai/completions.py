"""OpenAI's completions: POST /v1/completions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

from lars_agent.example import Message
from lars_agent.runtime.request import Generation, GenerationRequest, Piece, TokenLogprob
from lars_agent.store.names import AdapterName
from service.api.choices import Choice
from service.api.dependencies import DaemonDep, KeepingDep
from service.api.errors import documented
from service.api.fields import Switch, Whole, storable
from service.api.openai.replies import STREAM, OpenAIReply, begin, stream_reply, whole_reply
from service.api.openai.request import MAX_CHOICES, MAX_LOGPROBS, TEXT, OpenAIRequest
from service.api.streams import generation_request

router = APIRouter(prefix="/v1", tags=["openai"])

MAX_PROMPTS = 2048
MAX_TOKEN = 2**31 - 1
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN}, "minItems": 1}
Prompt = str | tuple[int, ...]  # a text, or token ids


def _prompts(value: Any) -> list[Prompt]:
    """Return the prompts: of a text, of token ids, or of a list of either."""
    if isinstance(value, str) or _are_ids(value):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) or _are_ids(one) for one in value):
        raise ValueError("must be a text, a list of token ids, or a list of such prompts")
    if not 0 < len(value) <= MAX_PROMPTS:
        raise ValueError(f"must hold 1 to {MAX_PROMPTS} prompts, not {len(value)}")
    return [storable(one) if isinstance(one, str) else tuple(one) for one in value]


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and 0 <= one <= MAX_TOKEN for one in value)


class CompletionRequest(OpenAIRequest):
    """Texts to continue, without a chat template."""

    prompt: Annotated[
        list[Prompt],
        PlainValidator(_prompts),
        Field(description="A text or token ids, or a list of them; the choices come in its order."),
        WithJsonSchema(
            {
                "anyOf": [
                    TEXT,
                    IDS,
                    {"type": "array", "items": {"anyOf": [TEXT, IDS]}, "minItems": 1, "maxItems": MAX_PROMPTS},
                ]
            }
        ),
    ]
    logprobs: Whole | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: Switch | None = Field(default=None, description="Begin with the prompt, and with its `logprobs`.")
    best_of: Whole | None = Field(
        default=None, ge=1, le=MAX_CHOICES, description="Replies of which the `n` likeliest by token are given."
    )

    @field_validator("best_of")
    @classmethod
    def _more_than_n(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        n = info.data.get("n") or 1
        if best_of is not None and best_of < n:
            raise ValueError(f"must be at least n, which is {n}")
        if best_of is not None and best_of > n and info.data.get("stream"):
            raise ValueError("cannot be streamed, as the best reply is known at the end")
        return best_of

    @property
    def of_each(self) -> int:
        """Number of replies that are generated for each prompt."""
        return self.best_of or self.n or 1

    @property
    def candidates(self) -> int:
        """Number of replies that are generated in all."""
        return len(self.prompt) * self.of_each

    def best(self, candidates: Sequence[Choice]) -> Sequence[Choice]:
        """Return the likeliest replies to each prompt, in its order."""
        given, n = list[Choice](), self.n or 1
        if self.of_each == n:
            return candidates
        for start in range(0, len(candidates), self.of_each):
            own = candidates[start : start + self.of_each]
            given += sorted(own, key=lambda one: _mean_logprob(one.generation), reverse=True)[:n]
        return given

    def to_request(self, adapter: AdapterName, number: int = 0) -> GenerationRequest:
        """Return the engine's request for the reply `number` of `candidates`."""
        prompt = self.prompt[number // self.of_each]
        messages = (Message(role="user", content=prompt if isinstance(prompt, str) else ""),)
        is_compared = self.of_each > (self.n or 1)
        logprobs = 0 if self.logprobs is None and is_compared else self.logprobs
        own = {"raw": prompt, "logprobs": logprobs, "echo": bool(self.echo)}
        return generation_request(adapter, messages, **own, **self._sampling(number))


@router.post("/completions", response_model=OpenAIReply, responses=STREAM | documented(404, 409, 503, 504))
async def complete(body: CompletionRequest, request: Request, daemon: DaemonDep, keeping: KeepingDep) -> Any:
    """Continue texts."""
    choices = await begin(daemon, body, keeping)
    if body.stream:
        return stream_reply(choices, body, "text_completion", _chunk_choices(), {"text": ""})

    def choice(generation: Generation) -> dict[str, Any]:
        text = generation.prompt_text + generation.text if body.echo else generation.text
        tokens = (*generation.prompt_logprobs, *generation.logprobs)
        return {"text": text, "logprobs": None if body.logprobs is None else completion_logprobs(tokens, text)}

    return await whole_reply(choices, body, request, "text_completion", choice)


def _chunk_choices() -> Callable[[int, Piece], dict[str, Any]]:
    lengths = defaultdict[int, int](int)

    def choice(index: int, piece: Piece) -> dict[str, Any]:
        logprobs = completion_logprobs(piece.logprobs, piece.text, lengths[index]) if piece.logprobs else None
        lengths[index] += len(piece.text)
        return {"text": piece.text, "logprobs": logprobs}

    return choice


def completion_logprobs(tokens: Sequence[TokenLogprob], text: str, offset: int = 0) -> dict[str, Any]:
    """Return log-probabilities of the tokens of `text`, which begins at `offset`, in the shape of completions.

    The first token of a prompt has none, so that it is null.
    """
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob for token in tokens],
        "top_logprobs": [None if token.chosen.logprob is None else _likeliest(token) for token in tokens],
        "text_offset": [offset + start for start in _starts([token.chosen.text for token in tokens], text)],
    }


def _likeliest(token: TokenLogprob) -> dict[str, float | None]:
    """Return the most likely tokens, and the one that is there; of those with one text the likeliest."""
    found = dict[str, float | None]()
    for one in (*token.top, token.chosen):
        found.setdefault(one.text, one.logprob)
    return found


def _starts(tokens: Sequence[str], text: str) -> list[int]:
    """Return where each token begins in `text`, which need not be all of theirs: a decoder drops blanks, and shows a
    character of several tokens as another one in each.
    """
    starts, end = list[int](), 0
    for token in tokens:
        starts.append(min(end, len(text)))
        if (found := text.find(token, end, end + len(token) + 1)) >= 0:
            end = found + len(token)
    return starts


def _mean_logprob(generation: Generation) -> float:
    known = [token.chosen.logprob for token in generation.logprobs if token.chosen.logprob is not None]
    return sum(known) / max(1, len(known))
