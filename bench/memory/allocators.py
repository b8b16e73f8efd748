"""The allocators that the process of a cell can be started with."""

from __future__ import annotations

from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import dataclass, field

from lars_agent.memory.allocator import SMALL_KERNEL_CACHE, THRIFTY_GLIBC, THRIFTY_JEMALLOC, thrifty_environment

WORKER = "worker"  # the training worker's


@dataclass(frozen=True)
class Allocator:
    """An allocator, the environment variables that configure it, and the library to preload.

    All but the first have a small kernel cache (torch's, for oneDNN), so that they differ in nothing but the allocator.
    """

    label: str
    variables: Mapping[str, str] = field(default_factory=lambda: SMALL_KERNEL_CACHE)
    library: str | None = None

    def environment(self) -> dict[str, str]:
        """The variables that start a process with the allocator."""
        preload = {"LD_PRELOAD": find_library(self.library) or f"lib{self.library}.so"} if self.library else {}
        return dict(self.variables) | preload


@dataclass(frozen=True)
class WorkerAllocator(Allocator):
    """The training worker's allocator, with its own fallback where the library is missing."""

    def environment(self) -> dict[str, str]:
        return thrifty_environment({})


JEMALLOC_RETURNS = {"MALLOC_CONF": "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0"}
MIMALLOC_RETURNS = {  # the names of its releases before and since 2.1
    "MIMALLOC_DECOMMIT_DELAY": "0",
    "MIMALLOC_SEGMENT_DECOMMIT_DELAY": "0",
    "MIMALLOC_PURGE_DELAY": "0",
}
ALLOCATORS: Mapping[str, Allocator] = {
    "glibc": Allocator("glibc and torch as they come", {}),
    "glibc_small_kernel_cache": Allocator("glibc as it comes"),
    "glibc_returning": Allocator("glibc, a mapping of its own for each tensor", SMALL_KERNEL_CACHE | THRIFTY_GLIBC),
    "jemalloc": Allocator("jemalloc as it comes", library="jemalloc"),
    "jemalloc_returning": Allocator(
        "jemalloc, told to return at once what is freed", SMALL_KERNEL_CACHE | JEMALLOC_RETURNS, "jemalloc"
    ),
    WORKER: WorkerAllocator(
        "the worker's: jemalloc, told to return soon what is freed (lars_agent.memory.allocator)",
        SMALL_KERNEL_CACHE | THRIFTY_GLIBC | THRIFTY_JEMALLOC,
        "jemalloc",
    ),
    "mimalloc": Allocator("mimalloc as it comes", library="mimalloc"),
    "mimalloc_returning": Allocator(
        "mimalloc, told to return at once what is freed", SMALL_KERNEL_CACHE | MIMALLOC_RETURNS, "mimalloc"
    ),
}
# Variables that choose or tune an allocator.
VARIABLES = frozenset({"LD_PRELOAD"}.union(*(one.variables for one in ALLOCATORS.values())))


def available() -> list[str]:
    """The allocators that this machine has."""
    return [name for name, one in ALLOCATORS.items() if one.library is None or find_library(one.library)]
