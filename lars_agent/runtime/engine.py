"""The generation engine: one thread that owns the model, a bounded queue in front of it.

Everything that runs the model runs in that thread; whoever asks gets a `Ticket` at once and reads the reply from it. So
the daemon's other work (feedback, health) never waits for a token.
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from lars_agent.errors import GenerationCancelled, GenerationError, LarsError, PromptTooLong, QueueFull
from lars_agent.example import Message
from lars_agent.lars import attach
from lars_agent.models.open import OpenedModel
from lars_agent.runtime.decode import Decoder
from lars_agent.runtime.hotswap import AdapterSlots, Pinned
from lars_agent.runtime.sampling import Sampler
from lars_agent.runtime.text import TextStream
from lars_agent.store.adapters import AdapterStore
from lars_agent.training.batches import encode_prompt

FinishReason = Literal["eos_token", "length", "stop_sequence"]
SEED_LIMIT = 2**63


@dataclass(frozen=True)
class GenerationRequest:
    """What to reply to, with which adapter, and how to sample.

    `version` "active" follows the profile's active adapter, None is the base model, a number is that version.
    `temperature` 0 is greedy; `top_k` 0 is off; `seed` None draws one, and the reply tells which.
    """

    messages: tuple[Message, ...]
    profile: str = "default"
    version: int | Literal["active"] | None = "active"
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Generation:
    """A finished reply. `token_ids` are the generated ones, the end-of-turn token left out."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    generated_tokens: int
    adapter_version: int | None
    seed: int
    token_ids: tuple[int, ...]


@dataclass
class Ticket:
    """A reply that is being made: iterate it for the text as it comes, or wait for the `result`."""

    request: GenerationRequest
    pinned: Pinned
    prompt: list[int]
    seed: int
    _pieces: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _generation: Generation | None = None
    _error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        """Pieces of the reply's text as they are made. Raises what stopped the reply."""
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

    def _finish(self, generation: Generation | None, error: Exception | None = None) -> None:
        self._generation, self._error = generation, error
        self._done.set()
        self._pieces.put(None)


class Engine:
    """Serves replies from `opened` with the adapters of `store`, one at a time, in the order they came."""

    def __init__(
        self,
        opened: OpenedModel,
        store: AdapterStore,
        *,
        queue_size: int = 8,
        threads: int = 0,
        max_new_tokens: int = 1024,
        on_busy: Callable[[bool], None] | None = None,
    ) -> None:
        self._tokenizer = opened.tokenizer
        self._attachment = attach(opened.model)
        self._slots = AdapterSlots(opened.model, store, opened.sha256)
        self._context = int(getattr(opened.model.config, "max_position_embeddings", 2048))
        self._ends = end_tokens(opened)
        self._threads, self._max_new_tokens = threads, max_new_tokens
        self._on_busy = on_busy or (lambda busy: None)
        self._waiting: queue.Queue[Ticket | None] = queue.Queue(maxsize=queue_size)
        self._closed = False
        self.busy = False
        self._thread = threading.Thread(target=self._serve, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Ticket:
        """A ticket for `request`, pinned to the adapter that serves it from now on.

        Raises QueueFull, PromptTooLong, and what `AdapterSlots.resolve` raises.
        """
        if self._closed:
            raise GenerationError("the daemon is shutting down")
        prompt = encode_prompt(self._tokenizer, request.messages)
        if len(prompt) >= self._context:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, the model's context is {self._context}; shorten the conversation"
            )
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed % SEED_LIMIT
        ticket = Ticket(request, self._slots.resolve(request.profile, request.version), prompt, seed)
        try:
            self._waiting.put_nowait(ticket)
        except queue.Full:
            raise QueueFull(f"{self._waiting.maxsize} requests wait already; try again in a moment") from None
        return ticket

    def swap(self, profile: str) -> int | None:
        """New requests of `profile` get the store's active version; see `AdapterSlots.swap`."""
        return self._slots.swap(profile)

    def serve_base(self, profile: str) -> None:
        """The base model serves the profile, whatever the store calls active, until the next swap."""
        self._slots.serve_base(profile)

    def serving(self, profile: str) -> int | None:
        """The version that serves `profile` now; None for the base model."""
        return self._slots.serving(profile)

    def close(self, timeout_s: float = 10.0) -> None:
        """Requests that wait are finished within `timeout_s`, the rest cancelled; the thread has ended."""
        self._closed = True
        deadline = time.monotonic() + timeout_s
        while (self.busy or not self._waiting.empty()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._cancel_all = True
        self._waiting.put(None)
        self._thread.join(timeout_s)
        self._attachment.detach()

    _cancel_all = False

    def _serve(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        while (ticket := self._waiting.get()) is not None:
            self.busy = True
            self._on_busy(True)
            try:
                ticket._finish(self._generate(ticket))
            except Exception as error:  # the thread must outlive any one request
                ticket._finish(None, error if isinstance(error, LarsError) else GenerationError(repr(error)))
            finally:
                if self._waiting.empty():
                    self.busy = False
                    self._on_busy(False)

    def _generate(self, ticket: Ticket) -> Generation:
        request = ticket.request
        decoder = Decoder(self._attachment, ticket.pinned.adapter)
        sampler = Sampler(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            repetition_penalty=request.repetition_penalty,
            seed=ticket.seed,
        )
        stream = TextStream(self._tokenizer, request.stop)
        token_ids: list[int] = []
        pieces: list[str] = []
        reason: FinishReason = "length"
        self._check_cancelled(ticket)
        logits = decoder.prefill(ticket.prompt)
        for _ in range(min(request.max_new_tokens, self._max_new_tokens, self._context - len(ticket.prompt))):
            self._check_cancelled(ticket)
            token = sampler([*ticket.prompt, *token_ids], logits)
            if token in self._ends:
                reason = "eos_token"
                break
            token_ids.append(token)
            self._give(ticket, pieces, stream.push(token))
            if stream.stopped:
                reason = "stop_sequence"
                break
            logits = decoder.step(token)
        self._give(ticket, pieces, stream.flush())
        return Generation(
            "".join(pieces),
            reason,
            len(ticket.prompt),
            len(token_ids),
            ticket.pinned.version,
            ticket.seed,
            tuple(token_ids),
        )

    def _check_cancelled(self, ticket: Ticket) -> None:
        if ticket._cancelled.is_set() or self._cancel_all:
            raise GenerationCancelled("the request was cancelled before its reply was finished")

    def _give(self, ticket: Ticket, pieces: list[str], piece: str) -> None:
        if piece:
            pieces.append(piece)
            ticket._pieces.put(piece)


def end_tokens(opened: OpenedModel) -> frozenset[int]:
    """The ids that end a reply: the tokenizer's, and those the model's generation config names."""
    named = getattr(opened.model.generation_config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in [*listed, opened.tokenizer.eos_token_id] if token is not None)
