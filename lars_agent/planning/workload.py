"""What a job works on, in tokens: which examples come together is known before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from lars_agent.ops.padding import padded

__all__ = ["Batches", "Lengths", "Rows", "Workload", "batches_of", "largest"]

Lengths = tuple[int, int]  # tokens of an example's prompt and of its reply
Batches = tuple[tuple[Lengths, ...], ...]
Part = Literal["steps", "rehearsals", "judged"]


@dataclass(frozen=True)
class Rows:
    """Examples that are worked on at once: how many, the tokens of all their prompts and of all their replies, what
    fills them up included, and of their longest prompt.
    """

    count: int
    prompt: int
    reply: int
    longest: int

    @classmethod
    def of(cls, examples: Sequence[Lengths], *, packed: bool) -> Rows:
        """Of some examples, packed, or each padded to the longest."""
        prompts, replies = zip(*examples, strict=True)
        count, longest = len(examples), max(prompts)
        if packed:
            return cls(count, padded(sum(prompts)), padded(sum(replies)), longest)
        return cls(count, count * padded(longest), count * padded(max(replies)), padded(longest))

    def within(self, other: Rows) -> bool:
        """Whether these are in nothing more than `other`."""
        return (
            self.count <= other.count
            and self.prompt <= other.prompt
            and self.reply <= other.reply
            and self.longest <= other.longest
        )


@dataclass(frozen=True)
class Workload:
    """What a job has to hold.

    Attributes:
        steps: the examples of each step, in the order in which they are worked on, so many at once as the plan says.
        number_bytes: of one activation: 4 in float32, 2 in bfloat16.
        program_bytes: what the process holds when it works, weights and all that `estimate` counts left out.
        rehearsals: the passages of general text of each step, all at once.
        judged: what is measured without learning, so many at once as the plan says.
        unread_bytes: of the weights, what learning never looks at.
    """

    steps: Batches
    number_bytes: int
    program_bytes: int
    rehearsals: Batches = ()
    judged: Batches = ()
    unread_bytes: int = 0
    _largest: dict[tuple[str, int | None, bool], tuple[Rows, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def largest(self, what: Part, size: int | None, *, packed: bool) -> tuple[Rows, ...]:
        """See the function; each is worked out once."""
        asked = (what, size, packed)
        if asked not in self._largest:
            self._largest[asked] = largest(getattr(self, what), size, packed=packed)
        return self._largest[asked]

    @cached_property
    def typical_step(self) -> tuple[Lengths, ...]:
        """The step that has more tokens than half of the others."""
        return _middle(self.steps)

    @cached_property
    def typical_rehearsal(self) -> tuple[Lengths, ...]:
        """The same of the rehearsals; empty where there are none."""
        return _middle(self.rehearsals)


def largest(batches: Batches, size: int | None, *, packed: bool) -> tuple[Rows, ...]:
    """What is worked on at once, `size` examples of each of the batches (None: all of them); what is in nothing more
    than another is left out.
    """
    kept: list[Rows] = []
    found = {rows for batch in dict.fromkeys(batches) for rows in batches_of(batch, size or len(batch), packed=packed)}
    for rows in sorted(found, key=lambda rows: (rows.prompt + rows.reply, rows.count, rows.longest), reverse=True):
        if not any(rows.within(other) for other in kept):
            kept.append(rows)
    return tuple(kept)


def batches_of(examples: Sequence[Lengths], size: int, *, packed: bool) -> Iterator[Rows]:
    """The examples in their order, `size` at once."""
    for start in range(0, len(examples), size):
        yield Rows.of(examples[start : start + size], packed=packed)


def _middle(batches: Batches) -> tuple[Lengths, ...]:
    ordered = sorted(batches, key=lambda batch: sum(map(sum, batch)))
    return ordered[len(ordered) // 2] if ordered else ()
