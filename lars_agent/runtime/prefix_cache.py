"""What was read of earlier prompts, kept for the next one that begins in the same way.

A conversation's next turn begins with all of the last one, and most prompts of a profile with the same instructions.
Keys and values are kept in blocks of `BLOCK` tokens, each found by all tokens up to its end; so prompts share what they
have in common, however they go on. What depends on how the prompt begins alone can be kept:

    base model, `response`    the base model reads the prompt. A block holds the sums of what the layers saw as well, of
                              which a `response` adapter makes its bias: it serves every profile and version, and
                              outlives a swap
    `causal`                  the adapter acts while the prompt is read: its blocks are its own, and some hold what it
                              remembers at their end, from where reading can go on
    `sequence`, `learned`, `prompt`    every token depends on all of the prompt: nothing is kept
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch import Tensor

from lars_agent.lars.inject import AdapterMemory

__all__ = ["BLOCK", "Block", "Place", "PrefixCache", "Sums"]

BLOCK = 64  # tokens
Place = tuple[int, int]  # a layer, and a slot of `lars_agent.runtime.fast_decoder.SLOTS`
Sums = dict[Place, Tensor]  # (I,) float32 each


@dataclass(frozen=True)
class Block:
    """Keys and values (L, 2 G, BLOCK, D) of `BLOCK` tokens, and the sums of what the layers saw of them.

    `memory` is what an adapter that acted remembers at the end of it.
    """

    states: Tensor
    sums: Sums
    memory: AdapterMemory | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        remembered = 0 if self.memory is None else self.memory.nbytes
        return self.states.nbytes + sum(total.nbytes for total in self.sums.values()) + remembered


class PrefixCache:
    """Blocks of at most `limit_bytes` together; those that were not asked for the longest go first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, scope: str, tokens: Sequence[int]) -> list[Block]:
        """The blocks of the longest beginning of `tokens` that is there; `scope` is what they depend on beside it."""
        with self._lock:
            names = list(takewhile(self._blocks.__contains__, _names(scope, tokens)))
            for name in reversed(names):  # the first block of a prompt goes last
                self._blocks.move_to_end(name)
            return [self._blocks[name] for name in names]

    def keep(self, scope: str, tokens: Sequence[int], blocks: Sequence[Block]) -> None:
        """`blocks` are those of the beginning of `tokens`."""
        with self._lock:
            for name, block in reversed(list(zip(_names(scope, tokens), blocks, strict=False))):
                if name not in self._blocks:
                    self._blocks[name] = block
                    self.held_bytes += block.nbytes
                self._blocks.move_to_end(name)
            while self.held_bytes > self.limit_bytes and self._blocks:
                self.held_bytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Nothing is kept."""
        with self._lock:
            self._blocks.clear()
            self.held_bytes = 0


def _names(scope: str, tokens: Sequence[int]) -> list[bytes]:
    """The names of the whole blocks of `tokens`, the first one first: each is a digest of all up to its end."""
    digest, names = hashlib.sha256(scope.encode()), []
    ids = array("q", tokens)
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        digest.update(ids[end - BLOCK : end].tobytes())
        names.append(digest.digest())
    return names
