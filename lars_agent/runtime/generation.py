"""Replies made by a lean model: each with its own keys and adapter, a token of each in one pass."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lars_agent.lars.inject import AdapterMemory
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.memory_plan import DEFAULT_PLAN
from lars_agent.runtime.constant_delta import Hooked, LeanAdapter, Reading, Steady, Together, steady
from lars_agent.runtime.fast_decoder import Acting, KeyValues, LeanModel, Part
from lars_agent.runtime.prefix_cache import BLOCK, Block, PrefixCache

PROMPT_CHUNK = DEFAULT_PLAN.prompt_chunk  # read as in training
BASE = "base"  # what the base model makes of a prompt


class Reply:
    """One reply: what it has of keys and values, and what its adapter remembers.

    `read` the prompt first; then `Stepper` goes on with one token of each of several replies.
    """

    def __init__(
        self,
        model: LeanModel,
        adapter: LeanAdapter | None,
        prompt: Sequence[int],
        room: int,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self.model, self.adapter, self.prompt = model, adapter, tuple(prompt)
        self.kept = KeyValues(model, len(prompt) + room)
        self.memory = AdapterMemory()
        self.steady: Steady | None = None
        self.logits = torch.empty(0)  # (V,) float32, of the next token
        self.known = 0  # tokens of the prompt that need not be read
        self._prefixes = prefixes

    def read(self) -> Iterator[None]:
        """Reads the prompt, a chunk between two yields; at the end `logits` are those of the reply's first token."""
        ids = torch.tensor(self.prompt)
        pooling = None if self.adapter is None else self.adapter.adapter.config.pooling
        if pooling in (None, "response"):
            reading = yield from self._read_base(ids[:-1])
            hidden = self._act(ids, reading)
        elif pooling == "causal":
            hidden = yield from self._read_acting(ids)
        else:  # pools over all of the prompt
            hidden = self._run(ids, self._hooked(len(ids), prompt=True))
        if self.adapter is not None and self.adapter.is_steady:
            self.steady = steady(self.adapter, self.memory)
        self.logits = self.model.logits(hidden[-1:])[0]

    def _read_base(self, ids: Tensor) -> Generator[None, None, Reading]:
        """The base model has read `ids`, all of the prompt but its last token.

        What lies behind the last whole block is read by itself, so that a prompt that was read before gives the same to
        the last bit.
        """
        tokens = ids.tolist()
        blocks = [] if self._prefixes is None else self._prefixes.find(BASE, tokens)
        self.known = self._put(blocks)
        reading = Reading([block.sums for block in blocks])
        for start, end in _pieces(self.known, len(ids)):
            self._run(ids[start:end], reading)
            yield
        if self._prefixes is not None:
            new = range(len(blocks), len(ids) // BLOCK)
            made = [
                Block(self._states(index), sums) for index, sums in zip(new, reading.sums(len(blocks)), strict=True)
            ]
            self._prefixes.keep(BASE, tokens, [*blocks, *made])
        return reading

    def _read_acting(self, ids: Tensor) -> Generator[None, None, Tensor]:
        """The last hidden state of the prompt, which the adapter acts on as it is read.

        What it remembers at the end of a piece is kept with the piece's last block, and reading goes on from there.
        """
        assert self.adapter is not None
        tokens, hidden = ids[:-1].tolist(), ids
        blocks = [] if self._prefixes is None else self._prefixes.find(self.adapter.scope, tokens)
        while blocks and blocks[-1].memory is None:
            blocks.pop()
        self.known = self._put(blocks)
        if blocks and blocks[-1].memory is not None:
            self.memory = blocks[-1].memory.fork()
        remembered: dict[int, AdapterMemory] = {}
        for start, end in _pieces(self.known, len(tokens), last=len(ids)):
            hidden = self._run(ids[start:end], self._hooked(end - start, prompt=True))
            remembered[end] = self.memory.fork()
            yield
        if self._prefixes is not None:
            new = range(len(blocks), len(tokens) // BLOCK)
            made = [Block(self._states(index), {}, remembered.get((index + 1) * BLOCK)) for index in new]
            self._prefixes.keep(self.adapter.scope, tokens, [*blocks, *made])
        return hidden

    def _put(self, blocks: Sequence[Block]) -> int:
        """The blocks' keys and values are this reply's; how many tokens they are."""
        for index, block in enumerate(blocks):
            self.kept.states[:, :, index * BLOCK : (index + 1) * BLOCK] = block.states
        self.kept.length = len(blocks) * BLOCK
        return self.kept.length

    def _states(self, index: int) -> Tensor:
        """A copy of a block's keys and values."""
        return self.kept.states[:, :, index * BLOCK : (index + 1) * BLOCK].clone()

    def _act(self, ids: Tensor, reading: Reading) -> Tensor:
        """The last hidden state of the prompt, with the adapter acting on its last token."""
        if self.adapter is None:
            return self._run(ids[-1:], None)
        self._run(ids[-1:], reading)
        self.kept.length -= 1  # run again, with the adapter acting
        reading.into(self.adapter, self.memory, len(ids))
        return self._run(ids[-1:], self._hooked(1, prompt=False))

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


def _pieces(known: int, count: int, last: int | None = None) -> Iterator[tuple[int, int]]:
    """Where the pieces begin and end in which `count` tokens are read, `known` of which need not be; the last piece,
    which goes on to `last`, is what lies behind the last whole block.
    """
    whole, end = count // BLOCK * BLOCK, count if last is None else last
    starts = [*range(known, whole, PROMPT_CHUNK), *([whole] if whole < end else [])]
    return pairwise([*starts, end])


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
            self._together = Together([reply.steady for reply in replies], self.model) if some else None
        return self._together
