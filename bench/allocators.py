"""The allocators that a cell's process can be started with."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes.util import find_library

from lars_agent.memory.allocator import THRIFTY_MALLOC

# torch's cache for oneDNN is no allocator: small in all but the first, so that the others differ in nothing but that.
SMALL_KERNEL_CACHE = {name: value for name, value in THRIFTY_MALLOC.items() if not name.startswith("MALLOC_")}
PRELOADED = ("jemalloc", "mimalloc")

ALLOCATORS: Mapping[str, str] = {
    "glibc": "glibc and torch as they come",
    "glibc_small_kernel_cache": "glibc as it comes",
    "thrifty": "glibc, a mapping of its own for each tensor (lars_agent.memory.allocator)",
    "jemalloc": "jemalloc as it comes (LD_PRELOAD)",
    "mimalloc": "mimalloc as it comes (LD_PRELOAD)",
}


def available() -> list[str]:
    """The allocators that this machine has."""
    return [name for name in ALLOCATORS if name not in PRELOADED or find_library(name)]


def environment(name: str) -> dict[str, str]:
    """The variables that start a process with the allocator. Raises KeyError for one that is not known."""
    if name == "glibc":
        return {}
    if name == "thrifty":
        return dict(THRIFTY_MALLOC)
    if name in PRELOADED:
        return SMALL_KERNEL_CACHE | {"LD_PRELOAD": find_library(name) or f"lib{name}.so"}
    return {"glibc_small_kernel_cache": dict(SMALL_KERNEL_CACHE)}[name]
