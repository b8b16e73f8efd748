"""One reply, token by token, with a KV cache and one adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lars_agent.lars.forward import read_prompt
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.pooling import Tokens
from lars_agent.ops.kv_cache import reserved_cache
from lars_agent.ops.memory_plan import DEFAULT_PLAN

REPLY_ROOM = 256  # tokens
PROMPT_CHUNK = DEFAULT_PLAN.prompt_chunk  # read as in training


class Decoder:
    """The state of one reply: KV cache, what the adapter remembers of the prompt, and how far it has come.

    Its log-probabilities are those of the teacher-forced pass in `lars_agent.lars.forward` for `prompt`, `response` and
    `causal` pooling.
    """

    def __init__(self, attachment: Attachment, adapter: LarsAdapter | None) -> None:
        self.attachment, self.adapter = attachment, adapter
        self.memory = AdapterMemory()
        self.seen = 0

    @torch.no_grad()
    def prefill(self, prompt: Sequence[int], room: int = REPLY_ROOM) -> Tensor:
        """(V,) float32 logits of the reply's first token. Call once, with a prompt of at least one token.

        There is room for a reply of `room` tokens; a longer one costs a copy of the cache now and then.
        """
        ids = torch.tensor([list(prompt)])
        if self.adapter is not None and self.adapter.config.pooling == "response":
            real = torch.ones_like(ids).bool()
            self.cache = read_prompt(self.attachment, self.adapter, self.memory, ids, real, PROMPT_CHUNK, room + 1)
            self.seen = len(prompt) - 1
            return self._forward(ids[:, -1:], prompt=False)
        self.cache = reserved_cache(self.attachment.model.config, len(prompt) + room)
        if self.adapter is not None:  # pools over all of the prompt
            return self._forward(ids, prompt=True)
        return [self._forward(piece, prompt=True) for piece in torch.split(ids, PROMPT_CHUNK, dim=1)][-1]

    @torch.no_grad()
    def step(self, token: int) -> Tensor:
        """(V,) float32 logits of the token after `token`."""
        return self._forward(torch.tensor([[token]]), prompt=False)

    def _forward(self, ids: Tensor, *, prompt: bool) -> Tensor:
        real = torch.ones_like(ids, dtype=torch.bool)
        tokens = Tokens(real=real, prompt=real if prompt else None, offset=torch.tensor([self.seen]))
        with self.attachment.call(self.adapter, self.memory, tokens):
            logits = self.attachment.model(
                input_ids=ids,
                attention_mask=torch.ones(1, self.seen + ids.shape[1], dtype=torch.long),
                position_ids=torch.arange(self.seen, self.seen + ids.shape[1])[None],
                **self.attachment.cached(self.cache),
                logits_to_keep=1,
            ).logits
        self.seen += ids.shape[1]
        return logits[0, -1].float()  # type: ignore[no-any-return]
