"""Generation requests, their results, and the ticket that connects the two. No torch here: the daemon has none."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from lars_agent.errors import GenerationError, LarsError
from lars_agent.example import Message, ToolCall, asked_at
from lars_agent.models.tools import ToolUse

Near = tuple[int, float]  # the index of a past question, and how near it is to the present one, -1 to 1
FinishReason = Literal["eos_token", "length", "stop_sequence"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters; the defaults are greedy decoding with everything else off.

    `temperature` 0 is greedy, and then `top_k`, `top_p` and `min_p` do nothing. Off is `top_k` 0, `top_p` 1, `min_p` 0,
    `repetition_penalty` 1. `frequency_penalty` and `presence_penalty` are OpenAI's: subtracted from a token's logit for
    each time it was generated, and once if it was generated at all. `logit_bias` are token ids, and -100 to 100 to be
    added to their logits; -100 bans a token, and with 100 no token without it is drawn.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """A reply's form: JSON by `schema`, which is JSON itself, or a text that `regex` matches from beginning to end.

    `prefix` and `suffix` stand before and after it. `field` is the request's field that an error names.
    """

    schema: str | None = None
    regex: str | None = None
    prefix: str = ""
    suffix: str = ""
    field: str = "grammar"


Fit = Literal["same", "like", "perhaps"]


@dataclass(frozen=True)
class PastAnswer:
    """A past question and its answer.

    `fit` tells whether the answer is one to the present question too, or to one like it, or only perhaps one to either.
    """

    question: str
    answer: str
    fit: Fit = "like"


@dataclass(frozen=True)
class GenerationRequest(Sampling):
    """A prompt, the adapter to use, and the sampling parameters.

    The reply goes on with `prefill`, which is its beginning and no part of the result's text. `raw` is a text to
    continue, or its token ids, instead of `messages` and without the chat template. `logprobs` is the number of most
    likely tokens to report at each position; None reports no probabilities. With `echo` the first piece is the `raw`
    prompt, and its probabilities are reported too. `max_new_tokens` 0 only reads the prompt.

    `recalled` are past questions and their answers; at most `recall_limit` of them, those nearest to the last message,
    stand in the prompt before it, as far as they take no more than `recall_tokens`. A reply that goes on with
    the nearest one's answer, if that is the "same", is likelier by `recall_strength` nats a token.

    With `is_foreign` the last message is about something that the adapter was not taught; if it asks for a fact, the
    base model replies, as the adapter would give what it was taught about something else.

    `taught` is not None where the last message is about nobody, or foreign: those questions about nobody whose replies
    the adapter was taught. Where not two of them are of its kind, the base model replies, and nothing is recalled, as
    what was taught has nothing to say on it. Neither holds where a question that "perhaps" fits is near enough.

    The reply may call `tools`; its calls are no part of its text.

    `version` "active" is the profile's active adapter, None the base model, a number that version. With `seed` None a
    random seed is drawn and reported with the reply.

    Only prompts of one `cache_scope` share what is cached of them: `cached_tokens` would tell what others have asked.

    A reply with a `grammar` follows it, and ends as soon as nothing else can follow; only one that ends before, with
    `max_new_tokens` or a stop sequence, is not complete.
    """

    messages: tuple[Message, ...]
    profile: str = "default"
    version: int | Literal["active"] | None = "active"
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    raw: str | tuple[int, ...] | None = None
    prefill: str = ""
    echo: bool = False
    logprobs: int | None = None
    recalled: tuple[PastAnswer, ...] = ()
    recall_limit: int = 0
    recall_tokens: int = 0
    recall_strength: float = 0.0
    is_foreign: bool = False
    taught: tuple[str, ...] | None = None
    tools: ToolUse | None = None
    grammar: Grammar | None = None
    cache_scope: str = ""

    @property
    def may_be_closed(self) -> bool:
        """Whether the adapter may have nothing to say on the last message."""
        return self.is_foreign or self.taught is not None

    @property
    def question(self) -> str:
        """The text of the user's last message."""
        return self.messages[asked_at(self.messages)]["content"]


@dataclass(frozen=True)
class TokenChoice:
    """A token and the natural logarithm of its probability before sampling; None for the first token of a prompt."""

    token_id: int
    text: str
    logprob: float | None


@dataclass(frozen=True)
class TokenLogprob:
    """The token that was drawn or given, and the most likely ones at its position."""

    chosen: TokenChoice
    top: tuple[TokenChoice, ...]


@dataclass(frozen=True)
class Piece:
    """New text of a streamed reply, with its tokens' probabilities if they were requested, or a call of a tool.

    `is_last` tells that the reply ends with the last of these tokens, as it is long enough or has a stop sequence.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    is_last: bool = False
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Generation:
    """A finished reply.

    `token_ids` are the generated tokens without the end-of-turn token; `cached_tokens` of the prompt's tokens came from
    the prefix cache. `prompt_text` is the text of a prompt that is echoed, or was given as token ids; `prompt_logprobs`
    are of an echoed one. `end` is the end-of-turn token, if the reply ended with one and probabilities were requested.
    `stop_sequence` is the one that ended the reply. `prompt_s` is the prompt's time, `reply_s` the reply's.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    adapter_version: int | None
    seed: int
    token_ids: tuple[int, ...]
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_s: float = field(default=0.0, compare=False)
    reply_s: float = field(default=0.0, compare=False)
    prompt_text: str = ""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    end: TokenLogprob | None = None
    stop_sequence: str | None = None
    calls: tuple[ToolCall, ...] = ()


@dataclass(eq=False)
class Ticket:
    """A submitted request: iterate over it for the pieces of the reply, or wait for its `result`.

    `version` is the adapter that serves it, None for the base model; `recalled` are those of the request's past
    questions that are in the prompt, the nearest first.
    """

    request: GenerationRequest
    seed: int
    version: int | None = None
    recalled: tuple[Near, ...] = ()
    _pieces: queue.SimpleQueue[Piece | None] = field(default_factory=queue.SimpleQueue)
    _finished: Future[Generation] = field(default_factory=Future)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces of the reply as they are generated. Raises the error that ended the reply."""
        while (piece := self._pieces.get()) is not None:
            yield piece
        self.result()

    def result(self, timeout_s: float | None = None) -> Generation:
        """Wait for the finished reply. Raises TimeoutError, or the error that ended the reply."""
        return self._finished.result(timeout_s)

    def cancel(self) -> None:
        """End the reply before its next token; its result is GenerationCancelled."""
        self._cancelled.set()

    @property
    def is_done(self) -> bool:
        """True once the reply has finished or failed."""
        return self._finished.done()

    @property
    def cancelled(self) -> bool:
        """True once the request was cancelled."""
        return self._cancelled.is_set()

    def add_done_callback(self, callback: Callable[[Ticket], None]) -> None:
        """Call `callback` once, when the reply is whole or will never be: now, if it is; else in another thread."""
        self._finished.add_done_callback(lambda finished: callback(self))

    def give(self, piece: Piece) -> None:
        """Add the next piece of the reply."""
        self._pieces.put(piece)

    def finish(self, generation: Generation | None, error: Exception | None = None) -> None:
        """End the reply with `generation`, or with `error` as a LarsError."""
        self._pieces.put(None)
        if error is not None:
            self._finished.set_exception(as_lars_error(error))
        else:
            assert generation is not None
            self._finished.set_result(generation)


def as_lars_error(error: Exception) -> LarsError:
    """Return `error` if it was raised on purpose, else a GenerationError that describes it."""
    return error if isinstance(error, LarsError) else GenerationError(repr(error))
