"""Widths of batches: multiples of a step, because every new shape costs compiled kernels, which stay in memory."""

from __future__ import annotations

WIDTH_STEP = 16


def padded(tokens: int) -> int:
    """Return `tokens` rounded up to a multiple of `WIDTH_STEP`."""
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP
