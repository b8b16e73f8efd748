"""A cell of the memory bench, the fine-tuning methods that are compared, and the allocators to start a process with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ctypes.util import find_library
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from bench.record import tables
from lars_agent.memory.allocator import SMALL_KERNEL_CACHE, THRIFTY_GLIBC, THRIFTY_JEMALLOC, thrifty_environment

DTYPES = ("float32", "bfloat16", "int8", "int4")
WORKER, AS_THEY_COME = "worker", "glibc"  # the training worker's allocator, and PEFT's users'


class Allocator(NamedTuple):
    """An allocator, the environment variables that configure it, and the library to preload."""

    label: str
    variables: Mapping[str, str] = {}
    library: str | None = None


JEMALLOC_RETURNS = {"MALLOC_CONF": "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0"}
# The names of mimalloc's releases before and since 2.1.
MIMALLOC_DELAYS = ("MIMALLOC_DECOMMIT_DELAY", "MIMALLOC_SEGMENT_DECOMMIT_DELAY", "MIMALLOC_PURGE_DELAY")
MIMALLOC_RETURNS = dict.fromkeys(MIMALLOC_DELAYS, "0")
ALLOCATORS: Mapping[str, Allocator] = {
    AS_THEY_COME: Allocator("glibc and torch as they come"),
    "glibc_small_kernel_cache": Allocator("glibc as it comes"),
    "glibc_returning": Allocator("glibc, a mapping of its own for each tensor", THRIFTY_GLIBC),
    "jemalloc": Allocator("jemalloc as it comes", library="jemalloc"),
    "jemalloc_returning": Allocator("jemalloc, told to return at once what is freed", JEMALLOC_RETURNS, "jemalloc"),
    WORKER: Allocator(
        "the worker's: jemalloc, told to return soon what is freed (lars_agent.memory.allocator)",
        THRIFTY_GLIBC | THRIFTY_JEMALLOC,
        "jemalloc",
    ),
    "mimalloc": Allocator("mimalloc as it comes", library="mimalloc"),
    "mimalloc_returning": Allocator("mimalloc, told to return at once what is freed", MIMALLOC_RETURNS, "mimalloc"),
}
# Variables that choose or tune an allocator.
VARIABLES = frozenset({"LD_PRELOAD", *SMALL_KERNEL_CACHE}.union(*(one.variables for one in ALLOCATORS.values())))


def allocator_environment(name: str) -> dict[str, str]:
    """The variables that start a process with the allocator; the worker's has a fallback for a missing library.

    All but the first have a small kernel cache (torch's, for oneDNN), so that they differ in nothing but the allocator.
    """
    _, variables, library = ALLOCATORS[name]
    if name == WORKER:
        return thrifty_environment({})
    preload = {"LD_PRELOAD": find_library(library) or f"lib{library}.so"} if library else {}
    return {**(SMALL_KERNEL_CACHE if name != AS_THEY_COME else {}), **variables, **preload}


def available() -> list[str]:
    """The allocators that this machine has."""
    return [name for name, one in ALLOCATORS.items() if one.library is None or find_library(one.library)]


@dataclass(frozen=True)
class Method:
    """A method with its label, its look (colour, marker and dash) in plots, and the plan of LARS.

    PEFT's run as they come: transformers' attention, glibc's allocator.
    """

    kind: Literal["inference", "lars", "peft"]
    label: str
    look: tuple[str, str, str]
    plan: str = "none"


SUBJECTS = tables("subjects.toml")
PLANS: Mapping[str, Mapping[str, Any]] = SUBJECTS["plans"]
METHODS = {name: Method(**values) for name, values in SUBJECTS["methods"].items()}


@dataclass(frozen=True)
class Cell:
    """One measurement, in a process of its own.

    Attributes:
        method: a key of `METHODS`.
        context, reply: tokens of the prompt, and of the reply that is learned; one example at a time.
        dtype: `float32`, `bfloat16`, `int8` or `int4`, see `lars_agent.models.arithmetic.compute_dtype`.
        model: as on the command line: `default`, a name, a folder, or a named config with random weights.
        steps: the number of steps; the counted bytes do not depend on it.
        threads: torch's; 0 for all cores.
        rank: of the LARS adapter.
        plan: the fields of `lars_agent.ops.memory_plan.MemoryPlan` (LARS alone).
        attention: `grouped` (ours) or `transformers`.
        allocator: a key of `ALLOCATORS`.
        device: `cpu` or `cuda`.
        limit_bytes: of the memory cgroup of the process, None for no limit.
        run: counts the repetitions of a cell.
    """

    method: str
    context: int
    dtype: str
    model: str = "default"
    reply: int = 128
    steps: int = 3
    threads: int = 0
    rank: int = 16
    plan: Mapping[str, Any] = field(default_factory=dict)
    attention: str = "grouped"
    allocator: str = WORKER
    device: str = "cpu"
    limit_bytes: int | None = None
    run: int = 0

    @property
    def key(self) -> str:
        """The same for cells that measure the same."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "steps"}, sort_keys=True)


def usual(name: str, context: int, dtype: str, **more: Any) -> Cell:
    """The cell of a method as its users run it."""
    method = METHODS[name]
    settings: dict[str, Any] = {"plan": dict(PLANS[method.plan])}
    if method.kind == "peft":
        settings |= {"attention": "transformers", "allocator": AS_THEY_COME}
    if method.kind == "inference":
        more |= {"steps": 1}  # a whole reply: there is nothing to wait for
    return Cell(name, context, dtype, **settings | more)


def given_ours(name: str, context: int, dtype: str, **more: Any) -> Cell:
    """The cell of a method that gets our attention and our allocator settings."""
    return usual(name, context, dtype, **{"attention": "grouped", "allocator": WORKER} | more)
