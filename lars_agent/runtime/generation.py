"""One sequence decoded by `FastDecoder`: its KV cache, its adapter's memory, and prefill with the prefix cache."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lars_agent.lars.inject import AdapterMemory
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.memory_plan import DEFAULT_PLAN
from lars_agent.runtime.constant_delta import ConstantDelta, FastAdapter, FullAdapter
from lars_agent.runtime.fast_decoder import AdapterHook, FastDecoder, KVCache, SequenceChunk
from lars_agent.runtime.prefix_cache import BLOCK, Block, PrefixCache
from lars_agent.runtime.prompt_sums import PromptSums

PROMPT_CHUNK = DEFAULT_PLAN.prompt_chunk  # the same as in training
BASE = "base"  # scope of the blocks that the base model computed


class FastSequence:
    """A prompt and its reply; see `lars_agent.runtime.backend.DecodingSequence`. `FastBackend.step` appends tokens."""

    def __init__(
        self,
        decoder: FastDecoder,
        adapter: FastAdapter | None,
        prompt: Sequence[int],
        capacity: int,
        prefixes: PrefixCache,
        scope: str = "",
    ) -> None:
        self.decoder, self.adapter, self.prompt, self.prefixes = decoder, adapter, tuple(prompt), prefixes
        self._scope = scope
        self.kv = KVCache(decoder, len(prompt) + capacity)
        self.memory = AdapterMemory()
        self.delta: ConstantDelta | None = None  # set by `prefill`
        self.logits = torch.empty(0)
        self.cached_tokens = 0

    @property
    def has_constant_delta(self) -> bool:
        """True if the adapter, if any, adds the same to every token of the reply."""
        return self.adapter is None or self.adapter.is_constant

    def prefill(self) -> Iterator[None]:
        """See `DecodingSequence`."""
        ids = torch.tensor(self.prompt)
        pooling = None if self.adapter is None else self.adapter.adapter.config.pooling
        if pooling in (None, "response"):
            sums = yield from self._prefill_base(ids[:-1])
            hidden = self._first_token(ids, sums)
        elif pooling == "causal":
            hidden = yield from self._prefill_causal(ids)
        else:  # pools over the whole prompt
            hidden = self._run(ids, self.full_adapter(len(ids), prompt=True))
        if self.adapter is not None and self.adapter.is_constant:
            self.delta = ConstantDelta.from_memory(self.adapter, self.memory)
        self.logits = self.decoder.logits(hidden[-1:])[0]

    def full_adapter(self, count: int = 1, *, prompt: bool = False) -> FullAdapter | None:
        """Return the hook that applies the adapter's full rule to the next `count` tokens."""
        if self.adapter is None:
            return None
        real = torch.ones(1, count, dtype=torch.bool)
        tokens = Tokens(real=real, prompt=real if prompt else None, offset=torch.tensor([self.kv.length]))
        return FullAdapter(self.adapter, self.memory, tokens)

    def _prefill_base(self, ids: Tensor) -> Generator[None, None, PromptSums]:
        """Run the base model over `ids`, the prompt without its last token.

        The tokens after the last whole block are a chunk of their own, so that a cached prompt gives identical bits.
        """
        tokens = ids.tolist()
        blocks = self.prefixes.find(f"{BASE} {self._scope}", tokens)
        self._restore(blocks)
        sums = PromptSums([block.sums for block in blocks])
        for start, end in self._chunks(len(ids)):
            self._run(ids[start:end], sums)
            yield
        new = [
            Block(self._states(index).clone(), block_sums)
            for index, block_sums in enumerate(sums.blocks(len(blocks)), len(blocks))
        ]
        self.prefixes.keep(f"{BASE} {self._scope}", tokens, [*blocks, *new])
        return sums

    def _prefill_causal(self, ids: Tensor) -> Generator[None, None, Tensor]:
        """Run the prompt with the adapter applied; return the last chunk's hidden states.

        The adapter's memory at the end of a chunk is cached with the chunk's last block; prefill can continue there.
        """
        assert self.adapter is not None
        tokens, hidden = ids[:-1].tolist(), ids
        blocks = self.prefixes.find(f"{self.adapter.scope} {self._scope}", tokens)
        while blocks and blocks[-1].memory is None:
            blocks.pop()
        self._restore(blocks)
        memories: dict[int, AdapterMemory] = {}
        for start, end in self._chunks(len(ids)):
            hidden = self._run(ids[start:end], self.full_adapter(end - start, prompt=True))
            memories[end] = self.memory.fork()
            yield
        new = [
            Block(self._states(index).clone(), {}, memories.get((index + 1) * BLOCK))
            for index in range(len(blocks), len(tokens) // BLOCK)
        ]
        self.prefixes.keep(f"{self.adapter.scope} {self._scope}", tokens, [*blocks, *new])
        return hidden

    def _chunks(self, end: int) -> Iterator[tuple[int, int]]:
        """Return start and end of each chunk up to token `end`, the last of them behind the last whole block."""
        whole = (len(self.prompt) - 1) // BLOCK * BLOCK
        starts = [*range(self.cached_tokens, whole, PROMPT_CHUNK), *([whole] if whole < end else [])]
        return pairwise([*starts, end])

    def _restore(self, blocks: Sequence[Block]) -> None:
        """Begin with the keys, values and adapter memory of `blocks`."""
        for index, block in enumerate(blocks):
            self._states(index).copy_(block.states)
        if blocks and blocks[-1].memory is not None:
            self.memory = blocks[-1].memory.fork()
        self.kv.length = self.cached_tokens = len(blocks) * BLOCK

    def _states(self, index: int) -> Tensor:
        """Keys and values of a block."""
        return self.kv.states[:, :, index * BLOCK : (index + 1) * BLOCK]

    def _first_token(self, ids: Tensor, sums: PromptSums) -> Tensor:
        """Return the hidden state of the prompt's last token, with the adapter applied to it."""
        if self.adapter is None:
            return self._run(ids[-1:], None)
        self._run(ids[-1:], sums)
        self.kv.length -= 1  # run again, with the adapter applied
        sums.store(self.adapter, self.memory, len(ids))
        return self._run(ids[-1:], self.full_adapter())

    def _run(self, ids: Tensor, hook: AdapterHook | None) -> Tensor:
        return self.decoder.run(ids, [SequenceChunk(self.kv, len(ids))], hook)
