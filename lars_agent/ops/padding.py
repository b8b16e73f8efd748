"""Widths of batches: multiples of a step, because every new shape costs compiled kernels, which stay in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WIDTH_STEP = 16


def padded(tokens: int) -> int:
    """Return `tokens` rounded up to a multiple of `WIDTH_STEP`."""
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP


def padded_rows(rows: Sequence[Sequence[int]], fill: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return the rows as one, (B, S) int64, with `fill` before or after each, and (B, S) bool, False at what fills."""
    width = padded(max(len(row) for row in rows))
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, span] = torch.tensor(row, dtype=torch.long)
        mask[index, span] = True
    return ids, mask
