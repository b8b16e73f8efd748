"""Decode one token after the other with transformers' own modules, for any model and pooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lars_agent.lars.forward import read_prompt
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.kv_cache import reserved_cache
from lars_agent.ops.memory_plan import DEFAULT_PLAN

DEFAULT_CAPACITY = 256  # reply tokens
PROMPT_CHUNK = DEFAULT_PLAN.prompt_chunk  # the same as in training


class HfSequence:
    """A prompt and its reply, with a KV cache and one adapter; a `lars_agent.runtime.backend.DecodingSequence`.

    Log-probabilities equal those of the teacher-forced pass in `lars_agent.lars.forward` for `prompt`, `response` and
    `causal` pooling. A reply of more than `capacity` tokens costs copies of the cache.
    """

    cached_tokens = 0
    chunk = PROMPT_CHUNK

    def __init__(
        self,
        attachment: Attachment,
        adapter: LarsAdapter | None,
        prompt: Sequence[int],
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self.attachment, self.adapter, self.prompt, self.capacity = attachment, adapter, prompt, capacity
        self.memory = AdapterMemory()
        self.length = 0  # tokens in the KV cache
        self.logits = torch.empty(0)

    @torch.no_grad()
    def prefill(self) -> Iterator[None]:
        """Run the prompt; yield between its chunks, so that a caller may do something else."""
        ids = torch.tensor([list(self.prompt)])
        if self.adapter is not None and self.adapter.config.pooling == "response":
            real, room = torch.ones_like(ids).bool(), self.capacity + 1
            self.cache = read_prompt(self.attachment, self.adapter, self.memory, ids, real, self.chunk, room)
            self.length = len(self.prompt) - 1
            self._run(ids[:, -1:], prompt=False)
            return
        self.cache = reserved_cache(self.attachment.model.config, len(self.prompt) + self.capacity)
        # An adapter pools over the whole prompt.
        for chunk in torch.split(ids, self.chunk, dim=1) if self.adapter is None else [ids]:
            self._run(chunk, prompt=True)
            yield

    @torch.no_grad()
    def step(self, token: int) -> None:
        """Append `token` and update `logits`."""
        self._run(torch.tensor([[token]]), prompt=False)

    def _run(self, ids: Tensor, *, prompt: bool) -> None:
        real = torch.ones_like(ids, dtype=torch.bool)
        tokens = Tokens(real=real, prompt=real if prompt else None, offset=torch.tensor([self.length]))
        end = self.length + ids.shape[1]
        with self.attachment.call(self.adapter, self.memory, tokens):
            logits = self.attachment.model(
                input_ids=ids,
                attention_mask=torch.ones(1, end, dtype=torch.long),
                position_ids=torch.arange(self.length, end)[None],
                **self.attachment.cached(self.cache),
                logits_to_keep=1,
            ).logits
        self.length = end
        self.logits = logits[0, -1].float()


def greedy_reply(
    attachment: Attachment, adapter: LarsAdapter | None, prompt: Sequence[int], end: int | None, most: int
) -> list[int]:
    """Return the likeliest tokens after `prompt`, at most `most`, without the one that ends them."""
    sequence, chosen = HfSequence(attachment, adapter, prompt, most), list[int]()
    for _ in sequence.prefill():
        pass
    while len(chosen) < most and (token := int(sequence.logits.argmax())) != end:
        chosen.append(token)
        sequence.step(token)
    return chosen
