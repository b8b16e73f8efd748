"""Continuous batching (Yu et al., Orca, OSDI 2022): requests join and leave the batch between two decoding steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import GenerationCancelled, GenerationTimeout
from lars_agent.models.tool_calls import MARKS, CallReader, Item
from lars_agent.runtime.adapter_cache import LoadedAdapter
from lars_agent.runtime.backend import Backend, DecodingSequence
from lars_agent.runtime.constraint import Constraint
from lars_agent.runtime.copying import Copier
from lars_agent.runtime.detokenize import TextStream, special_texts
from lars_agent.runtime.prompts import tokens_before
from lars_agent.runtime.request import FinishReason, Generation, Piece, Ticket, TokenLogprob
from lars_agent.runtime.sampling import Sampler
from lars_agent.runtime.thread_policy import ThreadPolicy
from lars_agent.runtime.token_logprobs import PromptLogprobs, token_logprob


@dataclass(frozen=True)
class QueuedRequest:
    """A ticket with its adapter, the prompt's token ids, the most new tokens, and a deadline by `time.monotonic`.

    `answers` are the token ids of recalled answers, `begun` those of the reply's given beginning, see `Copier`.
    `prompt_text` is as in `Generation`; `reader` finds the calls of tools in the reply, which keeps to `constraint`.
    """

    ticket: Ticket
    adapter: LoadedAdapter
    prompt: list[int]
    max_new_tokens: int
    deadline: float = math.inf
    answers: tuple[tuple[int, ...], ...] = ()
    begun: tuple[int, ...] = ()
    prompt_text: str = ""
    reader: CallReader | None = None
    constraint: Constraint | None = None


@dataclass(eq=False)
class _Running:
    """A request in the batch; `prefill` is None once its prompt is processed."""

    request: QueuedRequest
    sequence: DecodingSequence
    sampler: Sampler
    stream: TextStream
    prefill: Iterator[None] | None
    token_ids: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)  # that have not been sent yet
    pieces: list[Piece] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    prefilled: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text has not been sent yet
    echo: PromptLogprobs | None = None
    end: TokenLogprob | None = None

    def begin(self) -> FinishReason | None:
        """Send the echoed prompt; return the reason if the reply ends before it begins."""
        self.prefilled = time.monotonic()
        if self.request.ticket.request.echo:
            self.request.ticket.give(Piece(self.request.prompt_text, self._prompt_logprobs))
        return None if self.request.max_new_tokens else "length"

    @property
    def _prompt_logprobs(self) -> tuple[TokenLogprob, ...]:
        return () if self.echo is None else tuple(self.echo.tokens)

    def append(self, token: int, end_tokens: frozenset[int]) -> FinishReason | None:
        """Append a token and send its text, unless the reply ends with it; return the reason if it does."""
        if token in end_tokens:
            return "eos_token"
        self.token_ids.append(token)
        self._read(self.stream.push(token))
        reader = self.request.reader
        if self.stream.stopped or (reader is not None and reader.is_done):
            return "stop_sequence"
        if self.request.constraint is not None and self.request.constraint.is_complete:
            return "eos_token"
        if len(self.token_ids) == self.request.max_new_tokens:
            return "length"
        self._send()
        return None

    def finish(self, reason: FinishReason) -> None:
        """Send the rest of the text and the result."""
        self._read(self.stream.flush())
        if self.request.reader is not None:
            self.items += self.request.reader.flush()
        self._send(reason)
        self.request.ticket.finish(
            Generation(
                text="".join(piece.text for piece in self.pieces),
                finish_reason=reason,
                prompt_tokens=len(self.request.prompt),
                generated_tokens=len(self.token_ids),
                adapter_version=self.request.adapter.version,
                seed=self.request.ticket.seed,
                token_ids=tuple(self.token_ids),
                cached_tokens=self.sequence.cached_tokens,
                prompt_s=self.prefilled - self.started,
                reply_s=time.monotonic() - self.prefilled,
                logprobs=tuple(logprob for piece in self.pieces for logprob in piece.logprobs),
                prompt_text=self.request.prompt_text,
                prompt_logprobs=self._prompt_logprobs,
                end=self.end,
                stop_sequence=self.stream.stop_sequence if reason == "stop_sequence" else None,
                calls=tuple(call for piece in self.pieces for call in piece.calls),
            )
        )

    def _read(self, text: str) -> None:
        """Take in new text of the reply; what is certain of it waits to be sent."""
        reader = self.request.reader
        if text:
            self.items += [text] if reader is None else reader.push(text)

    def _send(self, end: FinishReason | None = None) -> None:
        """Send what waits, each text and call as a piece, and at the `end` of the reply all probabilities."""
        items = [item for item in self.items if item] or ([""] if end and self.logprobs else [])
        self.items = []
        for number, item in enumerate(items, 1):
            text, calls = (item, ()) if isinstance(item, str) else ("", (item,))
            is_last = number == len(items) and end not in (None, "eos_token")
            piece = Piece(text, tuple(self.logprobs), is_last, calls)
            self.logprobs = []
            self.pieces.append(piece)
            self.request.ticket.give(piece)


class ContinuousBatcher:
    """Generate replies with `backend`, each up to one of `end_tokens`; cancel all once `cancel_all` returns True.

    `threads` returns what chooses torch's thread count for each chunk of a prompt and each step.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: PreTrainedTokenizerFast,
        end_tokens: frozenset[int],
        cancel_all: Callable[[], bool],
        threads: Callable[[], ThreadPolicy],
    ) -> None:
        self._backend, self._tokenizer, self._end_tokens, self._cancel_all = backend, tokenizer, end_tokens, cancel_all
        self._threads = threads
        self._batch: list[_Running] = []

    def __len__(self) -> int:
        return len(self._batch)

    def add(self, request: QueuedRequest) -> None:
        """Add a request to the batch; if that fails, its ticket gets the error."""
        try:
            ticket = request.ticket
            adapter, scope = request.adapter.adapter, ticket.request.cache_scope
            sequence = self._backend.start(adapter, request.prompt, request.max_new_tokens, scope)
            copier = Copier(request.answers, ticket.request.recall_strength, request.begun)
            sampler = Sampler(ticket.request, ticket.seed, request.prompt, copier, request.constraint)
            before = tokens_before(ticket.request, request.prompt)
            shown = {} if request.reader is None else special_texts(self._tokenizer, MARKS)
            stream = TextStream(self._tokenizer, ticket.request.stop, before, shown)
            running = _Running(request, sequence, sampler, stream, sequence.prefill())
            if ticket.request.echo and ticket.request.logprobs is not None:
                running.echo = PromptLogprobs(self._tokenizer, request.prompt, ticket.request.logprobs)
                running.prefill = self._read_echo(running, running.echo, sequence.prefill())
            self._batch.append(running)
        except Exception as error:  # the thread must outlive any one request
            request.ticket.finish(None, error)

    def step(self) -> None:
        """Process one chunk of one prompt, and generate one token of each reply whose prompt is processed."""
        for running in list(self._batch):
            if running.request.ticket.cancelled or self._cancel_all():
                self._fail(GenerationCancelled("the request was cancelled before its reply was finished"), running)
            elif time.monotonic() > running.request.deadline:
                count = len(running.token_ids)
                self._fail(GenerationTimeout(f"the reply was not finished in time; it had {count} tokens"), running)
        first = next((running for running in self._batch if running.prefill is not None), None)
        if first is not None:
            self._prefill(first)
        self._decode([running for running in self._batch if running.prefill is None])

    def _read_echo(self, running: _Running, echo: PromptLogprobs, prefill: Iterator[None]) -> Iterator[None]:
        """Collect the prompt's log-probabilities, then process the prompt for a reply of more than one token."""
        yield from echo.collect(self._backend.prompt_logits(running.request.adapter.adapter, running.request.prompt))
        running.sequence.logits = echo.last
        if running.request.max_new_tokens > 1:
            yield from prefill

    def _prefill(self, running: _Running) -> None:
        assert running.prefill is not None
        torch.set_num_threads(self._threads().for_prompt())
        try:
            next(running.prefill)
        except StopIteration:
            running.prefill = None
            if (reason := running.begin()) is not None:
                self._end(running, reason)
        except Exception as error:
            self._fail(error, running)

    def _decode(self, batch: Sequence[_Running]) -> None:
        sampled = [(running, token) for running in batch if (token := self._sample(running)) is not None]
        if not sampled:
            return
        policy, size = self._threads(), len(sampled)
        count, started = policy.for_step(size), time.perf_counter()
        torch.set_num_threads(count)
        try:
            self._backend.step([running.sequence for running, _ in sampled], [token for _, token in sampled])
        except Exception as error:
            self._fail(error, *(running for running, _ in sampled))
        policy.record(size, count, time.perf_counter() - started)

    def _sample(self, running: _Running) -> int | None:
        """Return the reply's next token; None if the reply has ended."""
        try:
            token = running.sampler(running.sequence.logits)
            self._add_logprob(running, token)
            reason = running.append(token, self._end_tokens)
            if reason is None:
                return token
            self._end(running, reason)
        except Exception as error:
            self._fail(error, running)
        return None

    def _end(self, running: _Running, reason: FinishReason) -> None:
        running.finish(reason)
        self._batch.remove(running)

    def _add_logprob(self, running: _Running, token: int) -> None:
        asked = running.request.ticket.request
        if asked.logprobs is None:
            return
        logprob = token_logprob(self._tokenizer, running.sequence.logits, token, asked.logprobs)
        # Who reads the probabilities of a prompt leaves out the last one, which is to be there at every end.
        if token in self._end_tokens and not asked.echo:
            running.end = logprob
        else:
            running.logprobs.append(logprob)

    def _fail(self, error: Exception, *batch: _Running) -> None:
        for running in batch:
            self._batch.remove(running)
            running.request.ticket.finish(None, error)
