"""The generation engine: a bounded queue, and one thread that runs the model for several requests at once.

`submit` returns a `Ticket` at once, from which the caller reads the reply.
"""

from __future__ import annotations

import logging
import math
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cached_property
from itertools import takewhile
from typing import TypeVar

import torch
from jinja2 import TemplateError
from torch import Tensor

from lars_agent.errors import GenerationError, ModelUnsupported, PromptRefused, PromptTooLong, QueueFull
from lars_agent.example import Message, asked_at
from lars_agent.models.chat_template import encode_prompt, encode_reply, tool_traits, traits_of
from lars_agent.models.open import OpenedModel
from lars_agent.runtime.adapter_cache import AdapterCache
from lars_agent.runtime.backend import choose_backend
from lars_agent.runtime.batcher import ContinuousBatcher, QueuedRequest
from lars_agent.runtime.constraint import Constraints
from lars_agent.runtime.embedding import Embedder
from lars_agent.runtime.overlap import Overlap, ordered
from lars_agent.runtime.prompts import encode_prefill, encode_raw, prompt_text
from lars_agent.runtime.relevance import Relevance, everyday_questions
from lars_agent.runtime.request import GenerationRequest, Near, PastAnswer, Ticket
from lars_agent.runtime.thread_policy import ThreadPolicy
from lars_agent.store.adapters import AdapterStore

log = logging.getLogger(__name__)

SEED_LIMIT = 2**63
PREFIX_BYTES = 128 * 2**20
LONGEST_COPY = 200  # characters of an answer that a reply may go on with
LONGEST_COMPARED = 512  # tokens of a question's prompt
READ_AT_ONCE = 4  # of the shipped questions, while a request waits
IDLE_S = 1.0  # between two looks at the use of the cores, so that the next request finds them known
COMPARE_S = 30.0  # that a request waits at most for its question to be compared
T = TypeVar("T")


class Engine:
    """Generate replies with the model `opened` and the adapters of `store`, `parallel` at a time, in order of arrival.

    Common prefixes of prompts are processed once, within `prefix_bytes` of cache. A reply that is not finished
    `deadline_s` after `submit` ends with GenerationTimeout.

    torch uses up to `threads` threads (0: all cores), see `ThreadPolicy`. Every Python thread that ran torch in
    parallel keeps OpenMP threads of its own, and OpenMP, which counts them all, then lets none of them spin: a token
    takes half as long again. A process for the engine alone should therefore call `torch.set_num_threads(1)` in its
    main thread first.
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
        self._vocabulary = int(opened.model.config.get_text_config(decoder=True).vocab_size)
        self._parallel, self._max_new_tokens, self.threads = parallel, max_new_tokens, ThreadPolicy(threads)
        self._deadline_s, self._queue_size = deadline_s, queue_size
        self._room = threading.BoundedSemaphore(queue_size)  # for requests that wait
        self._inbox: queue.SimpleQueue[QueuedRequest | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[QueuedRequest] = deque()
        self._unfinished: set[Ticket] = set()
        ends = end_tokens(opened)
        self._constraints = Constraints(opened.tokenizer, ends, self._vocabulary)
        self._batcher = ContinuousBatcher(
            self._backend, opened.tokenizer, ends, lambda: self._cancel_all, lambda: self.threads
        )
        size = sum(tensor.nbytes for tensor in (*opened.model.parameters(), *opened.model.buffers()))
        name = f"{opened.sha256} {opened.model.dtype} {size}"  # the size tells quantized weights
        self._relevance = Relevance(self._embed, opened.folder, name)
        self._overlap = Overlap(self._tokenizer, opened.model.get_input_embeddings(), everyday_questions())
        self.embedder = Embedder(
            opened, self._backend.states, self._on_thread, model=name, context=self._context, deadline_s=deadline_s
        )
        self._closed = self._cancel_all = False
        self._is_cold = True  # questions are still to be read
        self._thread = threading.Thread(target=self._serve, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest) -> Ticket:
        """Queue `request` and return its ticket; a later swap does not change its adapter.

        Raises QueueFull, PromptTooLong, PromptRefused, ParameterRefused, and what `AdapterCache.resolve` raises.
        """
        if self._closed:
            raise GenerationError("the daemon is shutting down")
        is_closed, order = self._compare(request)
        prompt, recalled = self._encode(request, order)
        if len(prompt) + min(request.max_new_tokens, 1) > self._context:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, the model's context is {self._context}; shorten it"
            )
        constraint = self._constraints.of(request)
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed % SEED_LIMIT
        max_new_tokens = min(request.max_new_tokens, self._max_new_tokens, self._context - len(prompt))
        adapter = self._adapters.resolve(
            request.profile, request.version
        )  # raises for what there is not, closed or not
        if is_closed:
            adapter = self._adapters.resolve(request.profile, None)
        ticket, deadline = Ticket(request, seed, adapter.version, recalled), time.monotonic() + self._deadline_s
        answers = self._answers([request.recalled[index] for index, _ in recalled[:1]])
        begun = encode_prefill(self._tokenizer, request) if answers else ()
        if not self._room.acquire(blocking=False):
            raise QueueFull(f"{self._queue_size} requests wait already; try again in a moment")
        self._unfinished.add(ticket)
        ticket.add_done_callback(self._unfinished.discard)
        if self._adapters.is_forgotten(request.profile, adapter.version):
            ticket.cancel()
        text = prompt_text(self._tokenizer, request)
        tools = None if request.prefill else request.tools  # a reply that is begun already begins with no call
        reader = None if tools is None else tool_traits(self._tokenizer, tools).reader(tools)
        given = (answers, begun, text, reader, constraint)
        self._inbox.put(QueuedRequest(ticket, adapter, prompt, max_new_tokens, deadline, *given))
        return ticket

    def _compare(self, request: GenerationRequest) -> tuple[bool, Sequence[Near]]:
        """Return whether the adapter is closed for the request, and else the past questions, the nearest first."""
        if not (request.is_foreign or request.taught is not None or request.recalled):
            return False, ()
        fitting = self._overlap.fitting(request)
        is_open = any(request.recalled[index].fit == "perhaps" for index in fitting)

        def compared() -> tuple[bool, Sequence[Near]]:
            unread = 0 if self._relevance.is_ready else READ_AT_ONCE  # who never pauses is to be understood too
            while unread and self._warm():
                unread -= 1
            if not self._relevance.can_compare:
                return False, unordered
            if not is_open and self._is_closed_for(request, request.question):
                return True, ()
            questions = [request.recalled[index].question for index in fitting]
            return False, ordered(fitting, self._relevance.cosines(request.question, questions))

        unordered = [(index, 0.0) for index in fitting]
        with suppress(TemplateError, TimeoutError):
            return self._on_thread(compared)
        return False, unordered

    def _is_closed_for(self, request: GenerationRequest, question: str) -> bool:
        """Return whether nothing that the adapter was taught is about a question."""
        if request.is_foreign and self._relevance.asks_fact(question):
            return True
        if request.taught is None or not self._relevance.is_ready:
            return False
        kinds = self._relevance.kinds_taught(request.taught)
        if kinds is None:
            self._is_cold = True  # they are read when there is time
            return False
        return self._relevance.kind_of(question) not in kinds

    def _on_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns in the thread that runs the model, between two tokens of the replies there.

        Raises TimeoutError.
        """
        done = Future[T]()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._inbox.put(run)
        return done.result(COMPARE_S)

    @cached_property
    def _opening(self) -> int:
        """The number of tokens with which the prompts of all questions begin."""
        pairs = zip(self._encode_question("a"), self._encode_question("b"), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _encode_question(self, question: str) -> list[int]:
        return encode_prompt(self._tokenizer, [Message(role="user", content=question)])

    def _embed(self, question: str) -> Tensor:
        """Return the hidden state (H,) at the end of the prompt that asks nothing else, without a long one's middle."""
        prompt = self._encode_question(question)
        start = max(self._opening, len(prompt) - LONGEST_COMPARED)
        return self._backend.embed([*prompt[: self._opening], *prompt[start:]], self._opening)

    def _encode(self, request: GenerationRequest, order: Sequence[Near]) -> tuple[list[int], tuple[Near, ...]]:
        """Return the prompt's token ids, and the past questions that are in it. Raises PromptRefused."""
        if request.raw is not None:
            return encode_raw(self._tokenizer, request.raw, self._vocabulary), ()
        try:
            plain = encode_prompt(self._tokenizer, request.messages, prefill=request.prefill, tools=request.tools)
            most = min(len(plain) + request.recall_tokens, self._context - 1)
            for count in range(min(len(order), request.recall_limit), 0, -1):
                past = [request.recalled[index] for index, _ in order[:count]]
                recalling = with_recalled(request.messages, past)
                ids = encode_prompt(self._tokenizer, recalling, prefill=request.prefill, tools=request.tools)
                if len(ids) <= most:
                    return ids, tuple(order[:count])
            return plain, ()
        except TemplateError as error:
            raise PromptRefused(f"the model's chat template refuses the conversation: {error}") from error

    def _answers(self, recalled: Sequence[PastAnswer]) -> tuple[tuple[int, ...], ...]:
        """Return the short ones of the answers that are to the same question, as token ids up to their end."""
        found = list[tuple[int, ...]]()
        for past in recalled:
            if past.fit == "same" and len(past.answer) <= LONGEST_COPY:
                with suppress(ModelUnsupported, TemplateError):
                    asked = [Message(role="user", content=past.question)]
                    found.append(tuple(encode_reply(self._tokenizer, asked, past.answer)[1]))
        return tuple(found)

    def prepare(self, profile: str, version: int) -> bool:
        """Load `version` for a later swap; see `AdapterCache.prepare`."""
        return self._adapters.prepare(profile, version)

    def is_ready(self, request: GenerationRequest) -> bool:
        """Return True if `submit` returns at once: the adapter is loaded, no question is to be compared, and no grammar
        to be compiled.
        """
        is_loaded = not isinstance(request.version, int) or self._adapters.is_ready(request.profile, request.version)
        compares = request.is_foreign or request.taught is not None or request.recalled
        return is_loaded and not compares and request.grammar is None

    def swap(self, profile: str, version: int | None) -> None:
        """Serve new requests of `profile` with `version`; see `AdapterCache.swap`."""
        self._adapters.swap(profile, version)

    def serving(self, profile: str) -> int | None:
        """Return the version that serves `profile` now; None for the base model."""
        return self._adapters.serving(profile)

    def forget(self, profile: str, versions: Sequence[int]) -> None:
        """Free the deleted `versions` and all that is kept of prompts.

        Replies of the profile that one of them gives, or that have a past answer in their prompt, are cancelled; they
        have ended when this returns.
        """
        self._adapters.forget(profile, versions)
        affected = {
            ticket
            for ticket in tuple(self._unfinished)
            if ticket.request.profile == profile and (ticket.version in versions or ticket.recalled)
        }
        for ticket in affected:
            ticket.cancel()
        self._on_thread(self._clear)
        while affected & self._unfinished:
            time.sleep(0.005)

    def _clear(self) -> None:
        self._backend.forget()
        self._relevance.forget()

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish the waiting requests within `timeout_s`, cancel the rest, and end the thread."""
        self._closed = True
        deadline = time.monotonic() + timeout_s
        while self._unfinished and time.monotonic() < deadline:
            time.sleep(0.02)
        self._cancel_all = True
        self._inbox.put(None)
        self._thread.join(timeout_s)
        self._backend.close()

    def _serve(self) -> None:
        is_open = True
        while is_open or self._waiting or self._batcher:
            is_open = self._receive() and is_open
            while self._waiting and len(self._batcher) < self._parallel:
                self._batcher.add(self._waiting.popleft())
                self._room.release()
            self._batcher.step()

    def _receive(self) -> bool:
        """Take in what has come, and wait for something if there is nothing to do; return False at the end.

        Before it waits, the shipped questions are read; none of them keeps anybody waiting for long.
        """
        while True:
            is_idle = not self._waiting and not self._batcher
            try:
                item = self._inbox.get(block=is_idle and not self._is_cold, timeout=IDLE_S)
            except queue.Empty:
                if not is_idle:
                    return True
                torch.set_num_threads(self.threads.for_prompt())
                self._is_cold = self._is_cold and self._warm()
                continue
            if isinstance(item, QueuedRequest):
                self._waiting.append(item)
            elif item is not None:
                torch.set_num_threads(self.threads.for_prompt())
                item()
            else:
                return False

    def _warm(self) -> bool:
        """Read a question; return whether there are more."""
        try:
            return self._relevance.warm()
        except Exception as error:  # a chat template that refuses it, say: the thread must outlive that
            log.warning("questions are not compared: %r", error)
            return False


def with_recalled(messages: Sequence[Message], recalled: Sequence[PastAnswer]) -> list[Message]:
    """Return the conversation with past questions and answers before its last question, the best ones last.

    What comes before them, a system prompt above all, is the same with and without: its cached prefix stays valid.
    """
    turns = list[Message]()
    for past in reversed(recalled):
        turns += [Message(role="user", content=past.question), Message(role="assistant", content=past.answer)]
    at = asked_at(messages)
    return [*messages[:at], *turns, *messages[at:]]


def end_tokens(opened: OpenedModel) -> frozenset[int]:
    """Return the ids that end a reply: the tokenizer's, those of the model's generation config, and those that the chat
    template puts behind an assistant's turn.
    """
    configured = getattr(opened.model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    named = (int(token) for token in [*ids, opened.tokenizer.eos_token_id] if token is not None)
    return traits_of(opened.tokenizer).ends.union(named)
