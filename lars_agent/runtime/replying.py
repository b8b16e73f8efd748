"""Replies made by a lean model: each with its own keys and adapter, a token of each in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lars_agent.lars.inject import AdapterMemory
from lars_agent.lars.pooling import Tokens
from lars_agent.memory.plan import DEFAULT_PLAN
from lars_agent.runtime.acting import Hooked, LeanAdapter, Reading, Steady, Together, steady
from lars_agent.runtime.lean import Acting, KeyValues, LeanModel, Part

PROMPT_CHUNK = DEFAULT_PLAN.prompt_chunk  # read as in training


class Reply:
    """One reply: what it has of keys and values, and what its adapter remembers.

    `read` the prompt first; `step` goes on with one token of each of several replies.
    """

    def __init__(self, model: LeanModel, adapter: LeanAdapter | None, prompt: Sequence[int], room: int) -> None:
        self.model, self.adapter, self.prompt = model, adapter, tuple(prompt)
        self.kept = KeyValues(model, len(prompt) + room)
        self.memory = AdapterMemory()
        self.steady: Steady | None = None
        self.logits = torch.empty(0)  # (V,) float32, of the next token

    def read(self) -> Iterator[None]:
        """Reads the prompt, a chunk between two yields; at the end `logits` are those of the reply's first token."""
        ids = torch.tensor(self.prompt)
        if self.adapter is None:
            for piece in ids.split(PROMPT_CHUNK):
                hidden = self._run(piece, None)
                yield
        elif self.adapter.adapter.config.pooling == "response":
            reading = Reading(self.adapter)
            for piece in (*ids[:-1].split(PROMPT_CHUNK), ids[-1:]):
                if len(piece):
                    self._run(piece, reading)
                    yield
            self.kept.length -= 1  # the last token is run again, with the adapter acting
            reading.into(self.memory, len(ids))
            hidden = self._run(ids[-1:], self._hooked(1, prompt=False))
        else:  # pools over all of the prompt
            hidden = self._run(ids, self._hooked(len(ids), prompt=True))
        if self.adapter is not None and self.adapter.is_steady:
            self.steady = steady(self.adapter, self.memory)
        self.logits = self.model.logits(hidden[-1:])[0]

    def acting(self) -> Acting | None:
        """What the adapter does at the next token, by its full rule."""
        return None if self.adapter is None else self._hooked(1, prompt=False)

    @property
    def is_steady(self) -> bool:
        """Whether that is the same for every token."""
        return self.adapter is None or self.adapter.is_steady

    def _run(self, ids: Tensor, acting: Acting | None) -> Tensor:
        return self.model.run(ids, [Part(self.kept, len(ids))], acting)

    def _hooked(self, count: int, *, prompt: bool) -> Hooked:
        assert self.adapter is not None
        real = torch.ones(1, count, dtype=torch.bool)
        tokens = Tokens(real=real, prompt=real if prompt else None, offset=torch.tensor([self.kept.length]))
        return Hooked(self.adapter, self.memory, tokens)


class Stepper:
    """Several replies, of which one token each is run at a time."""

    def __init__(self, model: LeanModel) -> None:
        self.model = model
        self._replies: tuple[Reply, ...] = ()
        self._together: Together | None = None

    def step(self, replies: Sequence[Reply], tokens: Sequence[int]) -> None:
        """Each reply goes on with its token; its `logits` are then those of the token after it."""
        alike = [index for index, reply in enumerate(replies) if reply.is_steady]
        for group in (alike, *([index] for index in range(len(replies)) if index not in alike)):
            if group:
                self._step([replies[index] for index in group], [tokens[index] for index in group])

    def _step(self, replies: list[Reply], tokens: list[int]) -> None:
        parts = [Part(reply.kept, 1) for reply in replies]
        acting = self._steady(replies) if replies[0].is_steady else replies[0].acting()
        hidden = self.model.run(torch.tensor(tokens), parts, acting)
        for reply, logits in zip(replies, self.model.logits(hidden), strict=True):
            reply.logits = logits

    def _steady(self, replies: list[Reply]) -> Acting | None:
        """What their adapters add, put together once for as long as they are the same."""
        if tuple(replies) != self._replies:
            self._replies = tuple(replies)
            some = any(reply.steady is not None for reply in replies)
            self._together = Together([reply.steady for reply in replies]) if some else None
        return self._together
