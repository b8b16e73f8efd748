"""Decode one token after the other with transformers' own modules, for any model and pooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import Cache

from lars_agent.lars.forward import hidden_of, read_only, read_prompt
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.kv_cache import reserved_cache
from lars_agent.ops.memory_plan import DEFAULT_PLAN
from lars_agent.ops.padding import padded_rows

DEFAULT_CAPACITY = 256  # reply tokens
PROMPT_CHUNK = DEFAULT_PLAN.prompt_chunk  # the same as in training
LOGITS_BYTES, MOST_ROWS = 16 * 2**20, 64  # of logits at once


def rows_at_once(vocabulary: int) -> int:
    """Return the number of tokens whose logits are computed at once."""
    return max(1, min(MOST_ROWS, LOGITS_BYTES // (4 * vocabulary)))


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

    @torch.no_grad()
    def prompt_logits(self) -> Iterator[Tensor]:
        """Yield, a few rows (N, V) float32 at a time, the logits after each token of the prompt: those that a prompt
        that ends there has. See `lars_agent.runtime.prompt_logits`; this is in place of `prefill`.
        """
        config = self.attachment.model.config
        pooling = None if self.adapter is None else self.adapter.config.pooling
        if pooling in (None, "causal"):
            self.cache = reserved_cache(config, len(self.prompt))
            rows = rows_at_once(int(config.get_text_config(decoder=True).vocab_size))
            for chunk in torch.split(torch.tensor([list(self.prompt)]), rows, dim=1):
                yield self._run(chunk, prompt=True, keep=chunk.shape[1])
        elif pooling == "response":
            self.cache = reserved_cache(config, len(self.prompt))
            for token in self.prompt:
                yield self._read_and_act(torch.tensor([[token]]))
        else:
            for end in range(1, len(self.prompt) + 1):
                shorter = HfSequence(self.attachment, self.adapter, self.prompt[:end], 0)
                for _ in shorter.prefill():
                    pass
                yield shorter.logits[None]

    def _read_and_act(self, ids: Tensor) -> Tensor:
        """Read one more token, and return the logits (1, V) after it as the prompt's last."""
        real, view = torch.ones_like(ids, dtype=torch.bool), read_only(self.attachment, self.cache)
        self._forward(ids, view, self.adapter, self.memory, Tokens(real=real, reading=True))
        logits = self._forward(ids, view, self.adapter, self.memory.fork(), Tokens(real=real))
        self._forward(ids, self.cache, None, self.memory, Tokens(real=real))
        self.length += 1
        return logits

    def _run(self, ids: Tensor, *, prompt: bool, keep: int = 1) -> Tensor:
        real = torch.ones_like(ids, dtype=torch.bool)
        tokens = Tokens(real=real, prompt=real if prompt else None, offset=torch.tensor([self.length]))
        rows = self._forward(ids, self.cache, self.adapter, self.memory, tokens, keep)
        self.length += ids.shape[1]
        self.logits = rows[-1]
        return rows

    def _forward(
        self,
        ids: Tensor,
        cache: Cache,
        adapter: LarsAdapter | None,
        memory: AdapterMemory,
        tokens: Tokens,
        keep: int = 1,
    ) -> Tensor:
        """Return the logits (keep, V) float32 after the last of the tokens `ids` (1, S), which go on with `cache`."""
        end = self.length + ids.shape[1]
        with self.attachment.call(adapter, memory, tokens):
            logits: Tensor = self.attachment.model(
                input_ids=ids,
                attention_mask=torch.ones(1, end, dtype=torch.long),
                position_ids=torch.arange(self.length, end)[None],
                **self.attachment.cached(cache),
                logits_to_keep=keep,
            ).logits
        return logits[0, -keep:].float()


def greedy_replies(
    attachment: Attachment, adapter: LarsAdapter | None, prompts: Sequence[Sequence[int]], end: int | None, most: int
) -> list[list[int]]:
    """Return the likeliest tokens after each of `prompts`, at most `most` each, without the one that ends them.

    All are decoded at the same time where the adapter allows it: a step takes little longer for several than for one.
    """
    if adapter is not None and adapter.config.pooling != "response":
        return [_greedy_reply(attachment, adapter, prompt, end, most) for prompt in prompts]
    return _greedy_batch(attachment, adapter, prompts, end, most) if prompts else []


@torch.no_grad()
def _greedy_batch(
    attachment: Attachment, adapter: LarsAdapter | None, prompts: Sequence[Sequence[int]], end: int | None, most: int
) -> list[list[int]]:
    ids, mask = padded_rows(prompts, 0, left=True)
    memory = AdapterMemory()
    cache = read_prompt(attachment, adapter, memory, ids, mask, PROMPT_CHUNK, most)
    token, going, chosen = ids[:, -1:], set(range(len(prompts))), [list[int]() for _ in prompts]
    for _ in range(most):
        with attachment.call(adapter, memory, Tokens(real=torch.ones_like(token, dtype=torch.bool))):
            hidden = hidden_of(attachment, token, mask, cache)
        token = attachment.vocabulary.logits(hidden[:, -1]).argmax(dim=1, keepdim=True)
        going -= {row for row in going if int(token[row]) == end}
        if not going:
            break
        for row in going:
            chosen[row].append(int(token[row]))
        mask = torch.cat([mask, torch.ones_like(token, dtype=torch.bool)], dim=1)
    return chosen


def _greedy_reply(
    attachment: Attachment, adapter: LarsAdapter, prompt: Sequence[int], end: int | None, most: int
) -> list[int]:
    sequence, chosen = HfSequence(attachment, adapter, prompt, most), list[int]()
    for _ in sequence.prefill():
        pass
    while len(chosen) < most and (token := int(sequence.logits.argmax())) != end:
        chosen.append(token)
        sequence.step(token)
    return chosen
