"""A process that keeps no memory which it does not use: how it is started, and what it does now and then.

jemalloc where it is installed (Debian: libjemalloc2), glibc where not. Both are told to give back what is freed: glibc
at once, which costs a page fault for every page of every tensor, jemalloc a tenth of a second later, when most of it
has been used again. `bench memory --goals` compares them, and others: the same peak, a step in two thirds of the time.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Mapping
from ctypes.util import find_library

__all__ = [
    "SMALL_KERNEL_CACHE",
    "THRIFTY_GLIBC",
    "THRIFTY_JEMALLOC",
    "allocator_name",
    "give_back",
    "thrifty_environment",
]

# What is kept of shapes that were computed before. torch's cache of packed weights: without it 14 steps of the default
# model took 90 MB less, and no longer. oneDNN's own of compiled kernels, a third of a megabyte each: as it comes it has
# room for 1,024, and a night of 60 steps, whose packed rows have ever other lengths, grew by 200 MB. One step uses up
# to a hundred of them; with fewer than that each layer compiles them anew, and a step takes half as long again.
SMALL_KERNEL_CACHE = {"LRU_CACHE_CAPACITY": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
# glibc keeps freed blocks below a threshold that rises with what is freed, up to 32 MiB; a fixed one has every tensor
# mapped for itself and unmapped when it is freed. Other C libraries ignore these (mallopt(3)).
THRIFTY_GLIBC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "2",
}
# One arena, or what one thread has freed lies about while the other asks for more (jemalloc(3)).
THRIFTY_JEMALLOC = {"MALLOC_CONF": "narenas:1,dirty_decay_ms:100,muzzy_decay_ms:0"}

_PURGE_ALL_ARENAS = b"arena.4096.purge"  # MALLCTL_ARENAS_ALL
_LOADED = "import ctypes; ctypes.CDLL(None).mallctl"

_libc = ctypes.CDLL(None)


def thrifty_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment `given`, with what a process has to be started with.

    jemalloc is tried first: a build for smaller pages than the kernel's ends every process that it is loaded into.
    """
    environment = dict(given) | SMALL_KERNEL_CACHE | THRIFTY_GLIBC | THRIFTY_JEMALLOC
    library = find_library("jemalloc")
    if library is None:
        return environment
    preloaded = environment | {"LD_PRELOAD": ":".join(filter(None, (library, given.get("LD_PRELOAD"))))}
    return preloaded if _allocates_with_jemalloc(preloaded) else environment


def allocator_name() -> str:
    """What this process allocates with: `jemalloc`, or `malloc` for the C library's own."""
    return "jemalloc" if hasattr(_libc, "mallctl") else "malloc"


def give_back() -> None:
    """What was freed is the system's again (malloc_trim(3), jemalloc's purge); nothing happens in other C libraries."""
    if hasattr(_libc, "mallctl"):
        _libc.mallctl(_PURGE_ALL_ARENAS, None, None, None, ctypes.c_size_t(0))
    elif hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))


def _allocates_with_jemalloc(environment: dict[str, str]) -> bool:
    """Whether a process that is started so lives, and has jemalloc's functions."""
    command = [sys.executable, "-I", "-S", "-c", _LOADED]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
