"""Configure the memory allocator of a new process so that freed memory returns to the system.

jemalloc if it is installed, else glibc; docs/memory-budget.md compares them.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Mapping
from ctypes.util import find_library

from lars_agent.processor import core_count

# Caches by tensor shape. torch's cache of packed weights: without it 14 steps of the default model took 90 MB less, at
# equal speed. oneDNN's cache of compiled kernels, a third of a megabyte each: with the default capacity of 1,024 a run
# of 60 steps with packed rows of varying lengths grew by 200 MB. One step uses up to 100 kernels; with a smaller
# capacity each layer recompiles them, and a step takes half as long again.
SMALL_KERNEL_CACHE = {"LRU_CACHE_CAPACITY": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
# glibc retains freed blocks below a threshold that adapts, up to 32 MiB; with a fixed one every tensor has its own
# mapping, unmapped when it is freed. Other C libraries ignore these (mallopt(3)).
THRIFTY_GLIBC = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_ARENA_MAX": "2",
}
# One arena, so that threads reuse each other's freed memory (jemalloc(3)).
THRIFTY_JEMALLOC = {"MALLOC_CONF": "narenas:1,dirty_decay_ms:100,muzzy_decay_ms:0"}

_MALLOPT = {"MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_ARENA_MAX": -8}  # malloc.h
_PURGE_ALL_ARENAS = b"arena.4096.purge"  # MALLCTL_ARENAS_ALL
_LOADED = "import ctypes; ctypes.CDLL(None).mallctl"

_libc = ctypes.CDLL(None)


def thrifty_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment `given` with the allocator settings for a new process.

    jemalloc is tested first: a build for smaller pages than the kernel's aborts every process that loads it.
    """
    environment = dict(given) | SMALL_KERNEL_CACHE | THRIFTY_GLIBC | THRIFTY_JEMALLOC
    library = find_library("jemalloc")
    if library is None:
        return environment
    preloaded = environment | {"LD_PRELOAD": ":".join(filter(None, (library, given.get("LD_PRELOAD"))))}
    return preloaded if _allocates_with_jemalloc(preloaded) else environment


def torch_environment(given: Mapping[str, str], threads: int = 0) -> dict[str, str]:
    """Return `thrifty_environment` with the thread count of a torch process; 0 threads: one for each core."""
    count = str(threads or core_count())
    return thrifty_environment(given) | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}


def be_thrifty() -> None:
    """Apply glibc's thrifty settings to this process, before it starts threads; a no-op with other C libraries.

    By default each thread of a server fills an arena of its own, which the others' freed memory is no use to.
    """
    if platform.libc_ver()[0] == "glibc":
        for name, value in THRIFTY_GLIBC.items():
            _libc.mallopt(_MALLOPT[name], int(value))


def allocator_name() -> str:
    """Return the allocator of this process: `jemalloc`, or `malloc` for that of the C library."""
    return "jemalloc" if hasattr(_libc, "mallctl") else "malloc"


def give_back() -> None:
    """Return freed memory to the system (malloc_trim(3), jemalloc's purge); a no-op with other C libraries."""
    if hasattr(_libc, "mallctl"):
        _libc.mallctl(_PURGE_ALL_ARENAS, None, None, None, ctypes.c_size_t(0))
    elif hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))


def _allocates_with_jemalloc(environment: dict[str, str]) -> bool:
    """Return True if a process with this environment starts and has jemalloc's functions."""
    command = [sys.executable, "-I", "-S", "-c", _LOADED]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
