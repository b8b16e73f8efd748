"""A cache of processed prompts, for the next prompt that starts with the same tokens.

A conversation's next turn starts with all of the previous one, and most prompts of a profile start with the same
instructions. Keys and values are cached in blocks of `BLOCK` tokens, each found by all tokens up to its end, so prompts
share their common prefix whatever follows it. Only states that depend on the preceding tokens alone can be cached:

    base model, `response`    with the sums of the layers' inputs, from which every `response` adapter computes its bias
    `causal`                  an adapter's own, some with its memory at their end, from which prefill can continue
    other poolings            none: every token depends on the whole prompt
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

BLOCK = 64  # tokens
GroupKey = tuple[int, int]  # a layer, and an index into `fast_decoder.PROJECTION_GROUPS`
Sums = dict[GroupKey, Tensor]  # (I,) float32 each


@dataclass(frozen=True)
class Block:
    """Keys and values (L, 2 G, BLOCK, D) of `BLOCK` tokens, and the sums of the layers' inputs over them.

    `memory` is that of an adapter applied to the prompt, at the block's end.
    """

    states: Tensor
    sums: Sums
    memory: AdapterMemory | None = None

    @property
    def nbytes(self) -> int:
        """Total size of the tensors."""
        memory_bytes = 0 if self.memory is None else self.memory.nbytes
        return self.states.nbytes + sum(total.nbytes for total in self.sums.values()) + memory_bytes


class PrefixCache:
    """An LRU cache of blocks, at most `limit_bytes` in total."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, scope: str, tokens: Sequence[int]) -> list[Block]:
        """Return the blocks of the longest cached prefix of `tokens`; `scope` is the model or adapter they are for."""
        with self._lock:
            keys = list(takewhile(self._blocks.__contains__, _block_keys(scope, tokens)))
            for key in reversed(keys):  # a prompt's first block is evicted last
                self._blocks.move_to_end(key)
            return [self._blocks[key] for key in keys]

    def keep(self, scope: str, tokens: Sequence[int], blocks: Sequence[Block]) -> None:
        """Cache `blocks`, those of a prefix of `tokens`."""
        with self._lock:
            for key, block in reversed(list(zip(_block_keys(scope, tokens), blocks, strict=False))):
                if key not in self._blocks:
                    self._blocks[key] = block
                    self.held_bytes += block.nbytes
                self._blocks.move_to_end(key)
            while self.held_bytes > self.limit_bytes and self._blocks:
                self.held_bytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Remove all blocks."""
        with self._lock:
            self._blocks.clear()
            self.held_bytes = 0


def _block_keys(scope: str, tokens: Sequence[int]) -> list[bytes]:
    """Return a key for each whole block of `tokens`: a digest of all tokens up to the block's end."""
    digest, keys = hashlib.sha256(scope.encode()), []
    ids = array("q", tokens)
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        digest.update(ids[end - BLOCK : end].tobytes())
        keys.append(digest.digest())
    return keys
