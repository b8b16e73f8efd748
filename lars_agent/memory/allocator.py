"""A process that keeps no memory which it does not use: how it is started, and what it does now and then."""

from __future__ import annotations

import ctypes

__all__ = ["THRIFTY_MALLOC", "give_back"]

# glibc keeps freed blocks below a threshold that rises with what is freed, up to 32 MiB; a fixed one has every tensor
# mapped for itself and unmapped when it is freed. Other C libraries ignore these (mallopt(3)).
THRIFTY_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "2",
    # torch's cache for oneDNN keeps compiled kernels and packed weights of a thousand shapes; without it 14 steps of
    # the default model took 90 MB less, and no longer.
    "LRU_CACHE_CAPACITY": "1",
}

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """What was freed in small pieces is the system's again (malloc_trim(3)); nothing happens without glibc."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)
