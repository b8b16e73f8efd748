"""Continuous batching (Yu et al., Orca, OSDI 2022): requests join and leave the batch between two decoding steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from lars_agent.errors import GenerationCancelled, GenerationTimeout
from lars_agent.runtime.adapter_cache import LoadedAdapter
from lars_agent.runtime.backend import Backend, DecodingSequence
from lars_agent.runtime.constraint import Constraint
from lars_agent.runtime.copying import Copier
from lars_agent.runtime.detokenize import TextStream
from lars_agent.runtime.request import FinishReason, Generation, Piece, Ticket, TokenChoice, TokenLogprob
from lars_agent.runtime.sampling import Sampler


@dataclass(frozen=True)
class QueuedRequest:
    """A ticket with its adapter, the prompt's token ids, the most new tokens, and a deadline by `time.monotonic`.

    `answers` are the token ids of recalled answers, see `Copier`; the reply keeps to `constraint`.
    """

    ticket: Ticket
    adapter: LoadedAdapter
    prompt: list[int]
    max_new_tokens: int
    deadline: float = math.inf
    answers: tuple[tuple[int, ...], ...] = ()
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
    pieces: list[Piece] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    prefilled: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text has not been sent yet

    def append(self, token: int, end_tokens: frozenset[int]) -> FinishReason | None:
        """Append a token and send its text; return the reason if the reply ends with it."""
        if token in end_tokens:
            return "eos_token"
        self.token_ids.append(token)
        text = self.stream.push(token)
        if text:
            self._send(text)
        if self.stream.stopped:
            return "stop_sequence"
        if self.request.constraint is not None and self.request.constraint.is_complete:
            return "eos_token"
        return "length" if len(self.token_ids) == self.request.max_new_tokens else None

    def finish(self, reason: FinishReason) -> None:
        """Send the rest of the text and the result."""
        rest = self.stream.flush()
        if rest or self.logprobs:
            self._send(rest)
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
            )
        )

    def _send(self, text: str) -> None:
        piece, self.logprobs = Piece(text, tuple(self.logprobs)), []
        self.pieces.append(piece)
        self.request.ticket.give(piece)


class ContinuousBatcher:
    """Generate replies with `backend`, each up to one of `end_tokens`; cancel all once `cancel_all` returns True."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: PreTrainedTokenizerFast,
        end_tokens: frozenset[int],
        cancel_all: Callable[[], bool],
    ) -> None:
        self._backend, self._tokenizer, self._end_tokens, self._cancel_all = backend, tokenizer, end_tokens, cancel_all
        self._batch: list[_Running] = []

    def __len__(self) -> int:
        return len(self._batch)

    def add(self, request: QueuedRequest) -> None:
        """Add a request to the batch; if that fails, its ticket gets the error."""
        try:
            ticket = request.ticket
            sequence = self._backend.start(request.adapter.adapter, request.prompt, request.max_new_tokens)
            copier = Copier(request.answers, ticket.request.recall_strength)
            sampler = Sampler(ticket.request, ticket.seed, request.prompt, copier, request.constraint)
            stream = TextStream(self._tokenizer, ticket.request.stop)
            self._batch.append(_Running(request, sequence, sampler, stream, sequence.prefill()))
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

    def _prefill(self, running: _Running) -> None:
        assert running.prefill is not None
        try:
            next(running.prefill)
        except StopIteration:
            running.prefill, running.prefilled = None, time.monotonic()
        except Exception as error:
            self._fail(error, running)

    def _decode(self, batch: Sequence[_Running]) -> None:
        sampled = [(running, token) for running in batch if (token := self._sample(running)) is not None]
        if not sampled:
            return
        try:
            self._backend.step([running.sequence for running, _ in sampled], [token for _, token in sampled])
        except Exception as error:
            self._fail(error, *(running for running, _ in sampled))

    def _sample(self, running: _Running) -> int | None:
        """Return the reply's next token; None if the reply has ended."""
        try:
            token = running.sampler(running.sequence.logits)
            if running.request.ticket.request.logprobs is not None and token not in self._end_tokens:
                running.logprobs.append(self._logprob(running, token))
            reason = running.append(token, self._end_tokens)
            if reason is None:
                return token
            running.finish(reason)
            self._batch.remove(running)
        except Exception as error:
            self._fail(error, running)
        return None

    def _logprob(self, running: _Running, token: int) -> TokenLogprob:
        """Return the log-probabilities of `token` and of the most likely tokens."""
        count = running.request.ticket.request.logprobs
        logprobs = running.sequence.logits.log_softmax(dim=0)
        top = logprobs.topk(count).indices.tolist() if count else []
        chosen, *others = [
            TokenChoice(token_id, str(self._tokenizer.decode([token_id])), float(logprobs[token_id]))
            for token_id in (token, *top)
        ]
        return TokenLogprob(chosen, tuple(others))

    def _fail(self, error: Exception, *batch: _Running) -> None:
        for running in batch:
            self._batch.remove(running)
            running.request.ticket.finish(None, error)
