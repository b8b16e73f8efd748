"""Decoding with transformers' own modules, for models that `FastDecoder` does not support."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lars_agent.lars import LarsAdapter
from lars_agent.lars.decoding import PROMPT_CHUNK, HfSequence
from lars_agent.lars.inject import Attachment
from lars_agent.ops.kv_cache import reserved_cache
from lars_agent.runtime.fast_linear import fastest_products


class HfBackend:
    """Decode one sequence after the other with transformers' modules; see `lars_agent.runtime.backend.Backend`."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment

    def prepare(self, adapter: LarsAdapter) -> LarsAdapter:
        """See `Backend`."""
        return adapter

    def start(self, adapter: LarsAdapter | None, prompt: Sequence[int], capacity: int, scope: str = "") -> HfSequence:
        """See `Backend`."""
        return HfSequence(self.attachment, adapter, prompt, capacity)

    def prompt_logits(self, adapter: LarsAdapter | None, prompt: Sequence[int]) -> Iterator[Tensor]:
        """See `Backend`."""
        return HfSequence(self.attachment, adapter, prompt, 0).prompt_logits()

    @torch.no_grad()
    def embed(self, prompt: Sequence[int], shared: int = 0) -> Tensor:
        """See `Backend`."""
        ids = torch.tensor([list(prompt)])
        hidden: Tensor = self.attachment.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[0, -1].float()

    @torch.no_grad()
    def states(self, prompt: Sequence[int]) -> Iterator[Tensor]:
        """See `Backend`."""
        ids, read = torch.tensor([list(prompt)]), 0
        cache = reserved_cache(self.attachment.model.config, len(prompt))
        for part in torch.split(ids, PROMPT_CHUNK, dim=1):
            end = read + part.shape[1]
            mask = torch.ones(1, end, dtype=torch.long)
            yield self.attachment.hidden(part, mask, torch.arange(read, end)[None], cache)[0]
            read = end

    def step(self, sequences: Sequence[HfSequence], tokens: Sequence[int]) -> None:
        """See `Backend`."""
        for sequence, token in zip(sequences, tokens, strict=True):
            with fastest_products(1):
                sequence.step(token)

    def forget(self) -> None:
        """See `Backend`; there is none."""

    def close(self) -> None:
        """See `Backend`."""
        self.attachment.detach()
