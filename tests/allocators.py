"""The environments that the worker may be started in: with jemalloc, and on a machine that has none."""

from __future__ import annotations

import os

import pytest

from lars_agent.memory.allocator import SMALL_KERNEL_CACHE, THRIFTY_GLIBC, thrifty_environment

NAMES = ("jemalloc", "malloc")


def environment_with(name: str) -> dict[str, str]:
    """`name` as in `lars_agent.memory.allocator.allocator_name`. Skips the test where there is no jemalloc."""
    if name == "malloc":
        return os.environ | SMALL_KERNEL_CACHE | THRIFTY_GLIBC
    environment = thrifty_environment(os.environ)
    if "jemalloc" not in environment.get("LD_PRELOAD", ""):
        pytest.skip("jemalloc is not installed (Debian: libjemalloc2)")
    return environment
