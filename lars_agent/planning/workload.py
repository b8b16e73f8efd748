"""Batch sizes of a job in tokens; the sampling order is known before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, lru_cache
from operator import le

from lars_agent.ops.padding import padded

Lengths = tuple[int, int]  # tokens of an example's prompt and of its reply
Batches = tuple[tuple[Lengths, ...], ...]


@dataclass(frozen=True)
class BatchSize:
    """Size of a batch: examples, tokens of all prompts and of all replies, padding included, and the longest prompt."""

    count: int
    prompt: int
    reply: int
    longest: int

    @classmethod
    def of(cls, examples: Sequence[Lengths], *, packed: bool) -> BatchSize:
        """Return the size of some examples, packed, or each padded to the longest."""
        prompts, replies = zip(*examples, strict=True)
        count, longest = len(examples), max(prompts)
        if packed:
            return cls(count, padded(sum(prompts)), padded(sum(replies)), longest)
        return cls(count, count * padded(longest), count * padded(max(replies)), padded(longest))

    def within(self, other: BatchSize) -> bool:
        """Return True if no dimension is larger than that of `other`."""
        return all(map(le, astuple(self), astuple(other)))


@dataclass(frozen=True)
class PromptLengths:
    """Tokens of prompts that are read together; `reads` and `base_tokens` as in the job's groups of prompts."""

    prompts: tuple[int, ...]
    reads: float
    base_tokens: int = 0


@dataclass(frozen=True)
class Workload:
    """Everything that a job processes.

    Attributes:
        steps: the examples of each step, in order; `micro_batch` of them at once.
        number_bytes: of one activation: 4 in float32, 2 in bfloat16.
        program_bytes: resident bytes of the process without weights and all that `estimate` counts.
        rehearsals: the general-text passages of each step, all at once.
        evaluations: the batches of the held-out measurements; `micro_batch` examples at once.
        unread_bytes: of the weights, the pages that training never reads.
        prompts: the groups of prompts that can be kept, in the order in which they are.
    """

    steps: Batches
    number_bytes: int
    program_bytes: int
    rehearsals: Batches = ()
    evaluations: Batches = ()
    unread_bytes: int = 0
    prompts: tuple[PromptLengths, ...] = ()

    @cached_property
    def typical_step(self) -> tuple[Lengths, ...]:
        """The step with the median number of tokens."""
        return _median(self.steps)

    @cached_property
    def typical_rehearsal(self) -> tuple[Lengths, ...]:
        """The rehearsal with the median number of tokens; empty if there are none."""
        return _median(self.rehearsals)


@lru_cache(maxsize=64)  # the planner asks once for each plan
def largest(batches: Batches, size: int | None, *, packed: bool) -> tuple[BatchSize, ...]:
    """Return the sizes of the micro-batches of `size` examples (None: whole batches) that are within no other."""
    maximal: list[BatchSize] = []
    sizes = {
        micro for batch in dict.fromkeys(batches) for micro in batch_sizes(batch, size or len(batch), packed=packed)
    }
    for micro in sorted(sizes, key=lambda each: (each.prompt + each.reply, each.count, each.longest), reverse=True):
        if not any(micro.within(other) for other in maximal):
            maximal.append(micro)
    return tuple(maximal)


def batch_sizes(examples: Sequence[Lengths], size: int, *, packed: bool) -> Iterator[BatchSize]:
    """Yield the sizes of the micro-batches of `size` examples, in order."""
    for start in range(0, len(examples), size):
        yield BatchSize.of(examples[start : start + size], packed=packed)


def _median(batches: Batches) -> tuple[Lengths, ...]:
    ordered = sorted(batches, key=lambda batch: sum(map(sum, batch)))
    return ordered[len(ordered) // 2] if ordered else ()
