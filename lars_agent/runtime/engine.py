"""The generation engine: one thread that owns the model and makes a few replies at once, a bounded queue in front.

Everything that runs the model runs in that thread; whoever asks gets a `Ticket` at once and reads the reply from it. So
the daemon's other work (feedback, health) never waits for a token.
"""

from __future__ import annotations

import math
import os
import queue
import secrets
import threading
import time

import torch
from jinja2 import TemplateError

from lars_agent.errors import GenerationError, PromptRefused, PromptTooLong, QueueFull
from lars_agent.models.open import OpenedModel
from lars_agent.runtime.adapter_cache import AdapterCache
from lars_agent.runtime.backend import backend_for
from lars_agent.runtime.batcher import Batch, Order
from lars_agent.runtime.request import Generation, GenerationRequest, Ticket
from lars_agent.store.adapters import AdapterStore
from lars_agent.training.batches import encode_prompt

__all__ = ["Engine", "Generation", "GenerationRequest", "Ticket", "end_tokens"]

SEED_LIMIT = 2**63
PREFIX_BYTES = 128 * 2**20


class Engine:
    """Serves replies from `opened` with the adapters of `store`, `parallel` at a time, begun in the order they came.

    Prompts that begin alike are read once, as far as `prefix_bytes` go. A reply that is not whole `deadline_s` after it
    was asked for ends in GenerationTimeout.

    The model is run by one thread with `threads` helpers (0: all cores). A thread that has run parts of torch in
    parallel keeps helpers of its own, and OpenMP, which counts them all, then lets none of them wait awake: a token
    takes half as long again. So whoever has a process for the engine alone sets its own thread count to 1 before.
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
        self._backend = backend_for(opened, prefix_bytes)
        self._slots = AdapterCache(opened.model, store, opened.sha256, self._backend.prepared)
        self._context = int(getattr(opened.model.config, "max_position_embeddings", 2048))
        self._parallel, self._threads, self._max_new_tokens = parallel, threads, max_new_tokens
        self._deadline_s = deadline_s
        self._waiting: queue.Queue[Order | None] = queue.Queue(maxsize=queue_size)
        self._batch = Batch(self._backend, opened.tokenizer, end_tokens(opened), lambda: self._cancel_all)
        self._closed = self._cancel_all = False
        self._busy = False
        self._thread = threading.Thread(target=self._serve, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Ticket:
        """A ticket for `request`, pinned to the adapter that serves it from now on.

        Raises QueueFull, PromptTooLong, PromptRefused, and what `AdapterCache.resolve` raises.
        """
        if self._closed:
            raise GenerationError("the daemon is shutting down")
        prompt = self._encoded(request)
        if len(prompt) >= self._context:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, the model's context is {self._context}; shorten the conversation"
            )
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed % SEED_LIMIT
        most = min(request.max_new_tokens, self._max_new_tokens, self._context - len(prompt))
        pinned = self._slots.resolve(request.profile, request.version)
        ticket = Ticket(request, seed, pinned.version)
        try:
            self._waiting.put_nowait(Order(ticket, pinned, prompt, most, time.monotonic() + self._deadline_s))
        except queue.Full:
            raise QueueFull(f"{self._waiting.maxsize} requests wait already; try again in a moment") from None
        return ticket

    def _encoded(self, request: GenerationRequest) -> list[int]:
        """The prompt's token ids. Raises PromptRefused."""
        if request.raw is not None:
            ids = list(self._tokenizer.encode(request.raw))
            if not ids:
                raise PromptRefused("the prompt is empty; give at least one token to go on with")
            return ids
        try:
            return encode_prompt(self._tokenizer, request.messages)
        except TemplateError as error:
            raise PromptRefused(f"the model's chat template refuses the conversation: {error}") from error

    def prepare(self, profile: str, version: int) -> None:
        """A swap to `version` will be at once; see `AdapterCache.prepare`."""
        self._slots.prepare(profile, version)

    def is_ready(self, request: GenerationRequest) -> bool:
        """Whether nothing has to be loaded for `request`."""
        return not isinstance(request.version, int) or self._slots.is_ready(request.profile, request.version)

    def swap(self, profile: str) -> int | None:
        """New requests of `profile` get the store's active version; see `AdapterCache.swap`."""
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
        while (self._busy or not self._waiting.empty()) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._cancel_all = True
        self._waiting.put(None)
        self._thread.join(timeout_s)
        self._backend.close()

    def _serve(self) -> None:
        torch.set_num_threads(self._threads or os.cpu_count() or 1)
        while self._take():
            self._batch.turn()
            self._busy = bool(self._batch) or not self._waiting.empty()

    def _take(self) -> bool:
        """Those that wait are being replied to, as many as may at once; waits for one where there is none.

        False when there will be no more and all are finished.
        """
        while len(self._batch) < self._parallel:
            try:
                order = self._waiting.get(block=not self._batch)
            except queue.Empty:
                return True
            if order is None:
                self._parallel = 0  # takes no more
                return len(self._batch) > 0
            self._busy = True
            self._batch.add(order)
        return len(self._batch) > 0


def end_tokens(opened: OpenedModel) -> frozenset[int]:
    """The ids that end a reply: the tokenizer's, and those the model's generation config names."""
    named = getattr(opened.model.generation_config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in [*listed, opened.tokenizer.eos_token_id] if token is not None)
