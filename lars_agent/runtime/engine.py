"""The generation engine: a bounded queue, and one thread that runs the model for several requests at once.

`submit` returns a `Ticket` at once, from which the caller reads the reply.
"""

from __future__ import annotations

import math
import os
import queue
import secrets
import threading
import time
from collections.abc import Sequence

import torch
from jinja2 import TemplateError

from lars_agent.errors import GenerationError, PromptRefused, PromptTooLong, QueueFull
from lars_agent.example import Message
from lars_agent.models.chat_template import encode_prompt
from lars_agent.models.open import OpenedModel
from lars_agent.runtime.adapter_cache import AdapterCache
from lars_agent.runtime.backend import choose_backend
from lars_agent.runtime.batcher import ContinuousBatcher, QueuedRequest
from lars_agent.runtime.request import GenerationRequest, PastAnswer, Ticket
from lars_agent.store.adapters import AdapterStore

SEED_LIMIT = 2**63
PREFIX_BYTES = 128 * 2**20
LONGEST_COPY = 200  # characters of an answer that a reply may go on with


class Engine:
    """Generate replies with the model `opened` and the adapters of `store`, `parallel` at a time, in order of arrival.

    Common prefixes of prompts are processed once, within `prefix_bytes` of cache. A reply that is not finished
    `deadline_s` after `submit` ends with GenerationTimeout.

    torch uses `threads` threads (0: all cores). Every Python thread that ran torch in parallel keeps OpenMP threads of
    its own, and OpenMP, which counts them all, then lets none of them spin: a token takes half as long again. A process
    for the engine alone should therefore call `torch.set_num_threads(1)` in its main thread first.
    """

    def __init__(
        self,
        opened: OpenedModel,
        store: AdapterStore,
        *,
        queue_size: int = 8,
        parallel: int = 4,
        threads: int = 0,
        max_new_tokens: int = 1024,
        prefix_bytes: int = PREFIX_BYTES,
        deadline_s: float = math.inf,
    ) -> None:
        self._tokenizer = opened.tokenizer
        self._backend = choose_backend(opened, prefix_bytes)
        self._adapters = AdapterCache(opened.model, store, opened.sha256, self._backend.prepare)
        self._context = int(getattr(opened.model.config, "max_position_embeddings", 2048))
        self._parallel, self._threads, self._max_new_tokens = parallel, threads, max_new_tokens
        self._deadline_s = deadline_s
        self._waiting: queue.Queue[QueuedRequest | None] = queue.Queue(maxsize=queue_size)
        self._batcher = ContinuousBatcher(self._backend, opened.tokenizer, end_tokens(opened), lambda: self._cancel_all)
        self._closed = self._cancel_all = False
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Ticket:
        """Queue `request` and return its ticket; a later swap does not change its adapter.

        Raises QueueFull, PromptTooLong, PromptRefused, and what `AdapterCache.resolve` raises.
        """
        if self._closed:
            raise GenerationError("the daemon is shutting down")
        prompt, recalled = self._encode(request)
        if len(prompt) >= self._context:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, the model's context is {self._context}; shorten the conversation"
            )
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed % SEED_LIMIT
        max_new_tokens = min(request.max_new_tokens, self._max_new_tokens, self._context - len(prompt))
        adapter = self._adapters.resolve(request.profile, request.version)
        ticket, deadline = Ticket(request, seed, adapter.version, recalled), time.monotonic() + self._deadline_s
        try:
            answers = self._answers(request.recalled[:recalled])
            self._waiting.put_nowait(QueuedRequest(ticket, adapter, prompt, max_new_tokens, deadline, answers))
        except queue.Full:
            raise QueueFull(f"{self._waiting.maxsize} requests wait already; try again in a moment") from None
        return ticket

    def _encode(self, request: GenerationRequest) -> tuple[list[int], int]:
        """Return the prompt's token ids, and how many past questions are in it. Raises PromptRefused."""
        if request.raw is not None:
            ids = list(self._tokenizer.encode(request.raw))
            if not ids:
                raise PromptRefused("the prompt is empty; give at least one token to continue")
            return ids, 0
        try:
            plain = encode_prompt(self._tokenizer, request.messages)
            most = min(len(plain) + request.recall_tokens, self._context - 1)
            for count in range(len(request.recalled), 0, -1):
                ids = encode_prompt(self._tokenizer, with_recalled(request.messages, request.recalled[:count]))
                if len(ids) <= most:
                    return ids, count
            return plain, 0
        except TemplateError as error:
            raise PromptRefused(f"the model's chat template refuses the conversation: {error}") from error

    def _answers(self, recalled: Sequence[PastAnswer]) -> tuple[tuple[int, ...], ...]:
        """Return the short ones of the answers that are to the same question, as token ids up to their end."""
        texts = [past.answer for past in recalled if past.is_same and len(past.answer) <= LONGEST_COPY]
        end = [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
        return tuple((*self._tokenizer.encode(text, add_special_tokens=False), *end) for text in texts)

    def prepare(self, profile: str, version: int) -> bool:
        """Load `version` for a later swap; see `AdapterCache.prepare`."""
        return self._adapters.prepare(profile, version)

    def is_ready(self, request: GenerationRequest) -> bool:
        """Return True if the adapter that `request` names by number is loaded."""
        return not isinstance(request.version, int) or self._adapters.is_ready(request.profile, request.version)

    def swap(self, profile: str, version: int | None) -> None:
        """Serve new requests of `profile` with `version`; see `AdapterCache.swap`."""
        self._adapters.swap(profile, version)

    def serving(self, profile: str) -> int | None:
        """Return the version that serves `profile` now; None for the base model."""
        return self._adapters.serving(profile)

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish the waiting requests within `timeout_s`, cancel the rest, and end the thread."""
        self._closed = True
        deadline = time.monotonic() + timeout_s
        while (self._busy or not self._waiting.empty()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._cancel_all = True
        self._waiting.put(None)
        self._thread.join(timeout_s)
        self._backend.close()

    def _serve(self) -> None:
        torch.set_num_threads(self._threads or os.cpu_count() or 1)
        while self._admit():
            self._batcher.step()
            self._busy = bool(self._batcher) or not self._waiting.empty()

    def _admit(self) -> bool:
        """Add waiting requests to the batch while there is room; if the batch is empty, wait for one.

        Return False when the engine is closed and the batch is empty.
        """
        while len(self._batcher) < self._parallel:
            try:
                request = self._waiting.get(block=not self._batcher)
            except queue.Empty:
                return True
            if request is None:
                self._parallel = 0  # closed: add no more
                return len(self._batcher) > 0
            self._busy = True
            self._batcher.add(request)
        return len(self._batcher) > 0


def with_recalled(messages: Sequence[Message], recalled: Sequence[PastAnswer]) -> list[Message]:
    """Return the conversation with past questions and answers before its last message, the best ones last.

    What comes before them, a system prompt above all, is the same with and without: its cached prefix stays valid.
    """
    turns = list[Message]()
    for past in reversed(recalled):
        turns += [Message(role="user", content=past.question), Message(role="assistant", content=past.answer)]
    return [*messages[:-1], *turns, messages[-1]]


def end_tokens(opened: OpenedModel) -> frozenset[int]:
    """Return the ids that end a reply: the tokenizer's, and those of the model's generation config."""
    configured = getattr(opened.model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*ids, opened.tokenizer.eos_token_id] if token is not None)
