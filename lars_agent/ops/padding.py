"""How wide a batch is made: in steps, for every new shape costs compiled kernels, which stay in memory."""

from __future__ import annotations

__all__ = ["WIDTH_STEP", "padded"]

WIDTH_STEP = 16


def padded(tokens: int) -> int:
    """The tokens that a batch is wide in which there are so many."""
    return -(-tokens // WIDTH_STEP) * WIDTH_STEP
