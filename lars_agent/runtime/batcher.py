"""The replies that are being made, a token of each in turn: continuous batching (Yu et al., Orca, OSDI 2022)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lars_agent.errors import GenerationCancelled, GenerationError, GenerationTimeout, LarsError
from lars_agent.runtime.adapter_cache import LoadedAdapter
from lars_agent.runtime.backend import Backend, BeingMade
from lars_agent.runtime.detokenize import TextStream
from lars_agent.runtime.request import FinishReason, Generation, Piece, Ticket, TokenChoice, TokenLogprob
from lars_agent.runtime.sampling import Sampler

__all__ = ["Batch", "Order"]


@dataclass(frozen=True)
class Order:
    """A ticket, and what was settled when it came in: the adapter, the prompt's token ids, the most new tokens, and the
    deadline by `time.monotonic`.
    """

    ticket: Ticket
    pinned: LoadedAdapter
    prompt: list[int]
    most: int
    deadline: float = math.inf


@dataclass(eq=False)
class _Going:
    """One reply."""

    order: Order
    reply: BeingMade
    sampler: Sampler
    stream: TextStream
    reading: Iterator[None] | None
    token_ids: list[int] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    read: float = 0.0  # when the prompt had been read
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of tokens whose text has not been given yet

    def give(self, text: str) -> None:
        if text or self.logprobs:
            piece, self.logprobs = Piece(text, tuple(self.logprobs)), []
            self.pieces.append(piece)
            self.order.ticket.give(piece)

    def finish(self, reason: FinishReason) -> None:
        self.give(self.stream.flush())
        order = self.order
        order.ticket.finish(
            Generation(
                text="".join(piece.text for piece in self.pieces),
                finish_reason=reason,
                prompt_tokens=len(order.prompt),
                generated_tokens=len(self.token_ids),
                adapter_version=order.pinned.version,
                seed=order.ticket.seed,
                token_ids=tuple(self.token_ids),
                cached_tokens=self.reply.known,
                prompt_s=self.read - self.began,
                reply_s=time.monotonic() - self.read,
                logprobs=tuple(logprob for piece in self.pieces for logprob in piece.logprobs),
            )
        )


class Batch:
    """Replies by `backend`, which end with one of the tokens `ends`; `give_up` says whether all are to be cancelled."""

    def __init__(
        self, backend: Backend, tokenizer: PreTrainedTokenizerFast, ends: frozenset[int], give_up: Callable[[], bool]
    ) -> None:
        self._backend, self._tokenizer, self._ends, self._give_up = backend, tokenizer, ends, give_up
        self._going: list[_Going] = []

    def __len__(self) -> int:
        return len(self._going)

    def add(self, order: Order) -> None:
        """One more reply; what keeps it from being begun is told to its ticket."""
        try:
            reply = self._backend.begin(order.pinned.adapter, order.prompt, order.most)
            sampler = Sampler(order.ticket.request, order.ticket.seed, order.prompt)
            stream = TextStream(self._tokenizer, order.ticket.request.stop)
            self._going.append(_Going(order, reply, sampler, stream, reply.read()))
        except Exception as error:  # the thread must outlive any one request
            order.ticket.finish(None, _told(error))

    def turn(self) -> None:
        """A piece of one prompt is read, and each reply whose prompt has been read goes on by a token."""
        for going in list(self._going):
            if going.order.ticket.cancelled or self._give_up():
                self._end(going, GenerationCancelled("the request was cancelled before its reply was finished"))
            elif time.monotonic() > going.order.deadline:
                self._end(
                    going, GenerationTimeout(f"the reply was not whole in time; it had {len(going.token_ids)} tokens")
                )
        reading = next((going for going in self._going if going.reading is not None), None)
        if reading is not None:
            self._read(reading)
        self._step([going for going in self._going if going.reading is None])

    def _read(self, going: _Going) -> None:
        assert going.reading is not None
        try:
            next(going.reading)
        except StopIteration:
            going.reading, going.read = None, time.monotonic()
        except Exception as error:
            self._end(going, error)

    def _step(self, those: list[_Going]) -> None:
        drawn = [(going, token) for going in those if (token := self._draw(going)) is not None]
        if not drawn:
            return
        try:
            self._backend.step([going.reply for going, _ in drawn], [token for _, token in drawn])
        except Exception as error:
            for going, _ in drawn:
                self._end(going, error)

    def _draw(self, going: _Going) -> int | None:
        """The reply's next token, None when that was the last: then it is finished."""
        try:
            token = going.sampler(going.reply.logits)
            most = going.order.ticket.request.logprobs
            if most is not None and token not in self._ends:
                going.logprobs.append(self._logprob(going.reply.logits, token, most))
            reason = self._taken(going, token)
            if reason is not None:
                going.finish(reason)
                self._going.remove(going)
        except Exception as error:
            self._end(going, error)
            return None
        return token if reason is None else None

    def _logprob(self, logits: Tensor, token: int, most: int) -> TokenLogprob:
        """How likely the token was, and the `most` likeliest ones."""
        logprobs = logits.log_softmax(dim=0)
        top = logprobs.topk(most).indices.tolist() if most else []
        chosen, *others = [
            TokenChoice(number, str(self._tokenizer.decode([number])), float(logprobs[number]))
            for number in (token, *top)
        ]
        return TokenLogprob(chosen, tuple(others))

    def _taken(self, going: _Going, token: int) -> FinishReason | None:
        """The reply goes on with `token`; why that ends it, if it does."""
        if token in self._ends:
            return "eos_token"
        going.token_ids.append(token)
        text = going.stream.push(token)
        if text:
            going.give(text)
        if going.stream.stopped:
            return "stop_sequence"
        return "length" if len(going.token_ids) == going.order.most else None

    def _end(self, going: _Going, error: Exception) -> None:
        self._going.remove(going)
        going.order.ticket.finish(None, _told(error))


def _told(error: Exception) -> Exception:
    """What a client is told."""
    return error if isinstance(error, LarsError) else GenerationError(repr(error))
