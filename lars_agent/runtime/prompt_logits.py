"""Logits after each token of a prompt, from which the probabilities of its tokens come.

They are those that a prompt has that ends there. Without an adapter, and with `causal` pooling, one pass gives them.
With `response` pooling the base model reads each of these prompts, and the adapter acts on its last token: every token
is read, and run once more with the adapter. Other poolings look at the whole prompt, so each is read for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lars_agent.lars.decoding import rows_at_once
from lars_agent.lars.inject import AdapterMemory
from lars_agent.lars.pooling import Tokens
from lars_agent.runtime.constant_delta import FastAdapter, FullAdapter
from lars_agent.runtime.fast_decoder import FastDecoder, KVCache, SequenceChunk
from lars_agent.runtime.generation import FastSequence
from lars_agent.runtime.prefix_cache import GroupKey, PrefixCache


def prompt_logits(
    decoder: FastDecoder, adapter: FastAdapter | None, prompt: Sequence[int], prefixes: PrefixCache
) -> Iterator[Tensor]:
    """Yield the logits, a few rows (N, V) at a time; see `lars_agent.runtime.backend.Backend`."""
    pooling = None if adapter is None else adapter.adapter.config.pooling
    if pooling not in (None, "causal", "response"):
        for end in range(1, len(prompt) + 1):
            sequence = FastSequence(decoder, adapter, prompt[:end], 0, prefixes)
            for _ in sequence.prefill():
                pass
            yield sequence.logits[None]
        return
    ids, kv, memory = torch.tensor(list(prompt)), KVCache(decoder, len(prompt)), AdapterMemory()
    reader = _Reader(adapter) if adapter is not None and pooling == "response" else None
    for chunk in torch.split(ids, rows_at_once(decoder.vocabulary)):
        if reader is not None:
            hidden = reader.read_and_act(decoder, kv, chunk)
        else:
            real = torch.ones(1, len(chunk), dtype=torch.bool)
            tokens = Tokens(real=real, prompt=real, offset=torch.tensor([kv.length]))
            hook = None if adapter is None else FullAdapter(adapter, memory, tokens)
            hidden = decoder.run(chunk, [SequenceChunk(kv, len(chunk))], hook)
        yield decoder.logits(hidden)


class _Reader:
    """An AdapterHook that adds nothing, and pools the prompt up to each token for a `response` adapter."""

    def __init__(self, adapter: FastAdapter) -> None:
        self.adapter, self.count = adapter, 0
        self._totals: dict[GroupKey, Tensor] = {}  # (I,) float32 over all tokens read
        self._pooled: dict[GroupKey, Tensor] = {}  # (S, I) float32 of the call's tokens

    def __call__(self, layer: int, group: int, x: Tensor, out: Tensor) -> None:
        """Pool `x`: mean and last of the tokens up to each one."""
        key = (layer, group)
        if key in self.adapter.layers:
            totals = x.float().cumsum(0)
            if key in self._totals:
                totals += self._totals[key]
            self._totals[key] = totals[-1].clone()
            self._pooled[key] = totals / torch.arange(self.count + 1, self.count + len(x) + 1)[:, None] + x

    def read_and_act(self, decoder: FastDecoder, kv: KVCache, ids: Tensor) -> Tensor:
        """Read the next tokens; return the hidden states (S, H) of each of them as the last one, with the adapter."""
        start, size = kv.length, len(ids)
        decoder.run(ids, [SequenceChunk(kv, size)], self)
        self.count += size
        read = kv.states[:, :, start : start + size].clone()
        # Prompts of one token more each, in one memory: in each layer the longest writes its last token first, so that
        # the others' keys, those that were read, are still there.
        chunks = [SequenceChunk(kv.shortened(end), 1) for end in reversed(range(start, start + size))]
        hidden = decoder.run(ids.flip(0), chunks, FullAdapter(self.adapter, self._memory(), _tokens(size)))
        kv.states[:, :, start : start + size] = read
        return hidden.flip(0)

    @torch.no_grad()
    def _memory(self) -> AdapterMemory:
        """Return the adapter's response at each token, the last one first."""
        memory = AdapterMemory()
        for key, layers in self.adapter.layers.items():
            pooled = self._pooled.pop(key).flip(0)[None]
            for name, _ in layers:
                memory.layer(name).response = self.adapter.adapter.by_name[name](pooled)
        return memory


def _tokens(size: int) -> Tokens:
    return Tokens(real=torch.ones(1, size, dtype=torch.bool))
