"""Prompts of a job as the base model reads them, kept from one step to the next.

With `response` pooling a prompt's keys, values and pooled sums do not depend on the adapter, and neither does the base
model's side of the rehearsal: both are the same in every step. Prompts are read in groups that do not depend on the
step, because a product's rounding may depend on the rows beside: a run that was interrupted, and has an empty cache,
ends in the same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lars_agent.lars.forward import ReadPrompts, read_prompts, reply_hidden
from lars_agent.lars.inject import AdapterMemory, Attachment, LarsAdapter
from lars_agent.lars.packing import Pack
from lars_agent.lars.pooling import LayerMemory
from lars_agent.ops.kv_cache import reserved_cache
from lars_agent.ops.memory_plan import MemoryPlan
from lars_agent.training.batches import Encoded, Prompt, collate

Sums = tuple[Tensor, Tensor]  # of a layer's input over the prompt (1, I) float32, and the last token (1, I)


@dataclass(frozen=True)
class KeptPrompt:
    """One prompt: keys and values (2 L, 1, G, T - 1, D) of all tokens but the last, and the sums by layer name."""

    states: Tensor
    sums: Mapping[str, Sums]

    @property
    def tokens(self) -> int:
        """T."""
        return self.states.shape[3] + 1

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors, shared ones once."""
        pooled = {tensor.data_ptr(): tensor.nbytes for sums in self.sums.values() for tensor in sums}
        return self.states.nbytes + sum(pooled.values())


class PromptCache:
    """Reads prompts for `adapter`, and keeps those in the first `plan.kept_prompts` of `groups`."""

    def __init__(
        self, attachment: Attachment, adapter: LarsAdapter, groups: Sequence[Sequence[Prompt]], pad_id: int
    ) -> None:
        self._attachment, self._adapter, self._groups, self._pad_id = attachment, adapter, groups, pad_id
        self._kept: dict[Prompt, KeptPrompt] = {}
        self._base: dict[Encoded, Tensor] = {}
        self._group_of: dict[Prompt, int] = {}
        self._count = 0

    def use(self, plan: MemoryPlan) -> None:
        """Keep what `plan` says; what is kept besides is freed."""
        if plan.kept_prompts == self._count:
            return
        self._count = plan.kept_prompts
        groups = self._groups[: plan.kept_prompts]
        self._group_of = {prompt: number for number, group in enumerate(groups) for prompt in group}
        self._kept = {prompt: kept for prompt, kept in self._kept.items() if prompt in self._group_of}
        self._base = {row: hidden for row, hidden in self._base.items() if row.prompt in self._group_of}

    def clear(self) -> None:
        """Free all, and keep none from now on."""
        self.use(MemoryPlan())

    def of(self, rows: Sequence[Encoded], plan: MemoryPlan) -> ReadPrompts | None:
        """Return the prompts of `rows`, in their order; None if none are kept, and `reply_hidden` is to read them."""
        self.use(plan)
        if not self._count:
            return None
        for row in rows:
            if row.prompt in self._group_of and row.prompt not in self._kept:
                self._kept |= self._read(self._groups[self._group_of[row.prompt]], plan, keep=True)
        others = list(dict.fromkeys(row.prompt for row in rows if row.prompt not in self._kept))
        found = self._kept | self._read(others, plan, keep=False) if others else self._kept
        return self._joined([found[row.prompt] for row in rows])

    def base_hidden(self, rows: Sequence[Encoded], plan: MemoryPlan) -> Tensor | None:
        """Return the base model's hidden states (T, H) of the replies of `rows`; None if no prompts are kept."""
        self.use(plan)
        if not self._count:
            return None
        return torch.cat([self._base_hidden(row, plan) for row in rows])

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return sum(kept.nbytes for kept in self._kept.values()) + sum(hidden.nbytes for hidden in self._base.values())

    def _base_hidden(self, row: Encoded, plan: MemoryPlan) -> Tensor:
        if row in self._base:
            return self._base[row]
        with torch.no_grad():
            hidden = reply_hidden(self._attachment, None, collate([row], self._pad_id), plan, self.of([row], plan))
        if row.prompt in self._group_of:
            self._base[row] = hidden.clone()
        return hidden

    def _read(self, prompts: Sequence[Prompt], plan: MemoryPlan, *, keep: bool) -> dict[Prompt, KeptPrompt]:
        found = dict[Prompt, KeptPrompt]()
        for start in range(0, len(prompts), plan.micro_batch):
            some = prompts[start : start + plan.micro_batch]
            batch = collate([Encoded(prompt, (self._pad_id,), 1.0, "") for prompt in some], self._pad_id)
            read = read_prompts(self._attachment, [self._adapter], batch, plan)
            assert read is not None
            assert read.pack is not None  # the planner keeps no prompts that are not packed
            found |= zip(some, _split(read, read.pack, keep=keep), strict=True)
        return found

    def _joined(self, prompts: Sequence[KeptPrompt]) -> ReadPrompts:
        ends = tuple(accumulate(prompt.tokens - 1 for prompt in prompts))
        cache = reserved_cache(self._attachment.model.config, ends[-1])
        states = torch.cat([prompt.states for prompt in prompts], dim=3)
        for number in range(len(states) // 2):
            layer: Any = cache.layers[number]
            layer.update(states[2 * number], states[2 * number + 1])
        counts = torch.tensor([prompt.tokens for prompt in prompts])
        layers = dict[str, LayerMemory]()
        for name in prompts[0].sums:
            totals, lasts = zip(*(prompt.sums[name] for prompt in prompts), strict=True)
            layers[name] = LayerMemory(total=torch.cat(totals), count=counts, last=torch.cat(lasts).float())
        none = torch.empty(1, 0, dtype=torch.long)
        return ReadPrompts(AdapterMemory(layers), cache, Pack(none, none, ends))


def _split(read: ReadPrompts, pack: Pack, *, keep: bool) -> list[KeptPrompt]:
    """Return each of the prompts that were read together; copies to keep, else parts of the whole."""
    layers: list[Any] = list(read.cache.layers)
    found = list[KeptPrompt]()
    for number, (start, end) in enumerate(zip(pack.starts, pack.ends, strict=True)):
        states = torch.stack([each[:, :, start:end] for layer in layers for each in (layer.keys, layer.values)])
        sums, before = dict[str, Sums](), None
        for name, memory in read.memory.layers.items():
            assert memory.total is not None
            assert memory.last is not None
            total, last = memory.total[number : number + 1], memory.last[number : number + 1]
            # Projections of the same input have the same sums. The last token is an activation: it loses nothing.
            if before is None or not torch.equal(before[0], total):
                before = (total.clone(), last.to(states.dtype)) if keep else (total, last.to(states.dtype))
            sums[name] = before
        found.append(KeptPrompt(states, sums))
    return found
