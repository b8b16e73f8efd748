"""What the engine is asked, what it answers, and the ticket between the two. No torch here: the daemon has none."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from lars_agent.example import Message

__all__ = [
    "FinishReason",
    "Generation",
    "GenerationRequest",
    "Piece",
    "Sampling",
    "Ticket",
    "TokenChoice",
    "TokenLogprob",
]

FinishReason = Literal["eos_token", "length", "stop_sequence"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How words are drawn. `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 are
    off, and so are all of the first three where it is greedy. `frequency_penalty` and `presence_penalty` are OpenAI's:
    what is taken off a token's logit for each time, and for having been said at all.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True)
class GenerationRequest(Sampling):
    """What to reply to, with which adapter, and how to sample.

    `raw` is a text to go on with, in the place of `messages` and without the chat template. `logprobs` is how many of
    the likeliest tokens are told at each place, None for no probabilities at all.

    `version` "active" follows the profile's active adapter, None is the base model, a number is that version. `seed`
    None draws one, and the reply tells which.
    """

    messages: tuple[Message, ...]
    profile: str = "default"
    version: int | Literal["active"] | None = "active"
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None
    raw: str | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenChoice:
    """A token, and the natural logarithm of its probability before sampling."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """The token that was drawn, and the likeliest ones at its place."""

    chosen: TokenChoice
    top: tuple[TokenChoice, ...]


@dataclass(frozen=True)
class Piece:
    """What came of a reply at once: its text, and its tokens' probabilities where they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Generation:
    """A finished reply.

    `token_ids` are the generated ones, the end-of-turn token left out; `cached_tokens` are those of the prompt that
    were known from earlier ones. Reading the prompt took `prompt_s`, making the reply `reply_s`.
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


@dataclass(eq=False)
class Ticket:
    """A reply that is being made: iterate it for its pieces as they come, or wait for the `result`.

    `version` is the adapter that serves it, None for the base model.
    """

    request: GenerationRequest
    seed: int
    version: int | None = None
    _pieces: queue.SimpleQueue[Piece | None] = field(default_factory=queue.SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _generation: Generation | None = None
    _error: Exception | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _callbacks: list[Callable[[Ticket], None]] = field(default_factory=list)

    def __iter__(self) -> Iterator[Piece]:
        """Pieces of the reply as they are made. Raises what stopped the reply."""
        while (piece := self._pieces.get()) is not None:
            yield piece
        self.result()

    def result(self, timeout_s: float | None = None) -> Generation:
        """The finished reply. Raises GenerationCancelled, TimeoutError, or what stopped it."""
        if not self._done.wait(timeout_s):
            raise TimeoutError(f"no reply within {timeout_s} s")
        if self._error is not None:
            raise self._error
        assert self._generation is not None
        return self._generation

    def cancel(self) -> None:
        """The reply ends before its next token, and its result is GenerationCancelled."""
        self._cancelled.set()

    @property
    def is_done(self) -> bool:
        """Whether the reply is whole, or will never be."""
        return self._done.is_set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set()

    def add_done_callback(self, callback: Callable[[Ticket], None]) -> None:
        """Call `callback` once, when the reply is whole or will never be: now, if it is; else in another thread."""
        with self._lock:
            if not self.is_done:
                self._callbacks.append(callback)
                return
        callback(self)

    def give(self, piece: Piece) -> None:
        """The reply goes on with `piece`."""
        self._pieces.put(piece)

    def finish(self, generation: Generation | None, error: Exception | None = None) -> None:
        """The reply is whole, or `error` has stopped it."""
        self._generation, self._error = generation, error
        with self._lock:
            self._done.set()
            callbacks, self._callbacks = self._callbacks, []
        self._pieces.put(None)
        for callback in callbacks:
            callback(self)
