"""Decoding with `FastDecoder`: several sequences in one pass, and a prefix cache for prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lars_agent.lars import LarsAdapter
from lars_agent.runtime.constant_delta import BatchedDeltas, FastAdapter
from lars_agent.runtime.fast_decoder import AdapterHook, FastDecoder, KVCache, SequenceChunk
from lars_agent.runtime.generation import PROMPT_CHUNK, FastSequence
from lars_agent.runtime.prefix_cache import PrefixCache
from lars_agent.runtime.prompt_logits import prompt_logits


class FastBackend:
    """Decode several sequences at once; see `lars_agent.runtime.backend.Backend`."""

    def __init__(self, decoder: FastDecoder, prefixes: PrefixCache) -> None:
        self.decoder, self.prefixes = decoder, prefixes
        self._opening: tuple[tuple[int, ...], KVCache] = (
            (),
            KVCache(decoder, 0),
        )  # of all questions that are compared, and its keys and values
        self._batch: list[FastSequence] = []
        self._deltas: BatchedDeltas | None = None  # of the sequences in `_batch`

    def prepare(self, adapter: LarsAdapter) -> FastAdapter:
        """See `Backend`."""
        return FastAdapter(self.decoder, adapter)

    def start(self, adapter: FastAdapter | None, prompt: Sequence[int], capacity: int, scope: str = "") -> FastSequence:
        """See `Backend`."""
        return FastSequence(self.decoder, adapter, prompt, capacity, self.prefixes, scope)

    def prompt_logits(self, adapter: FastAdapter | None, prompt: Sequence[int]) -> Iterator[Tensor]:
        """See `Backend`."""
        return prompt_logits(self.decoder, adapter, prompt, self.prefixes)

    def embed(self, prompt: Sequence[int], shared: int = 0) -> Tensor:
        """See `Backend`."""
        opening, ids = tuple(prompt[:shared]), torch.tensor(list(prompt))
        if self._opening[0] != opening:
            self._opening = (opening, KVCache(self.decoder, shared))
            self.decoder.run(ids[:shared], [SequenceChunk(self._opening[1], shared)])
        kv = KVCache(self.decoder, len(prompt))
        kv.states[:, :, :shared], kv.length = self._opening[1].states, shared
        return self.decoder.run(ids[shared:], [SequenceChunk(kv, len(prompt) - shared)])[-1].float()

    def states(self, prompt: Sequence[int]) -> Iterator[Tensor]:
        """See `Backend`."""
        kv = KVCache(self.decoder, len(prompt))
        for ids in torch.split(torch.tensor(list(prompt)), PROMPT_CHUNK):
            yield self.decoder.run(ids, [SequenceChunk(kv, len(ids))])

    def step(self, sequences: Sequence[FastSequence], tokens: Sequence[int]) -> None:
        """See `Backend`; sequences whose adapter needs its full rule run one by one."""
        pairs = list(zip(sequences, tokens, strict=True))
        if batch := [pair for pair in pairs if pair[0].has_constant_delta]:
            self._run(batch, self._batched_deltas([sequence for sequence, _ in batch]))
        for sequence, token in pairs:
            if not sequence.has_constant_delta:
                self._run([(sequence, token)], sequence.full_adapter())

    def forget(self) -> None:
        """See `Backend`."""
        self.prefixes.clear()

    def close(self) -> None:
        """See `Backend`."""
        self.prefixes.clear()

    def _run(self, batch: Sequence[tuple[FastSequence, int]], hook: AdapterHook | None) -> None:
        chunks = [SequenceChunk(sequence.kv, 1) for sequence, _ in batch]
        hidden = self.decoder.run(torch.tensor([token for _, token in batch]), chunks, hook)
        for (sequence, _), logits in zip(batch, self.decoder.logits(hidden), strict=True):
            sequence.logits = logits

    def _batched_deltas(self, batch: list[FastSequence]) -> BatchedDeltas | None:
        """Return the deltas of `batch`, computed once for as long as the batch stays the same."""
        if batch != self._batch:
            deltas = [sequence.delta for sequence in batch]
            self._batch, self._deltas = batch, BatchedDeltas(deltas, self.decoder) if any(deltas) else None
        return self._deltas
