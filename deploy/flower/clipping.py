"""The bound on what one device changes in a round."""

from __future__ import annotations

import math

import numpy

Arrays = list[numpy.ndarray]


def clipped(before: Arrays, after: Arrays, bound: float, noise: float, rng: numpy.random.Generator) -> Arrays:
    """Return `before` plus the update to `after`, shortened to the 2-norm `bound` over all arrays.

    `noise` times `bound` is the standard deviation of what is added to each number.
    """
    updates = [new.astype(numpy.float64) - old for old, new in zip(before, after, strict=True)]
    norm = math.sqrt(sum(float((update**2).sum()) for update in updates))
    share = min(1.0, bound / norm) if norm else 1.0
    noisy = [share * update + rng.normal(0.0, noise * bound, update.shape) for update in updates]
    return [(old + update).astype(old.dtype) for old, update in zip(before, noisy, strict=True)]
