"""Limit the training worker's memory: by the kernel, or where that is impossible by the guard inside the worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from service.worker.cgroup import Cgroup, CgroupUnavailable, take_cgroup

log = structlog.get_logger(__name__)

LimitKind = Literal["cgroup", "guard"]


@dataclass
class Limit:
    """The limit of one run.

    Attributes:
        limit_bytes: the job's budget, None where it has none.
        entrance: the file by which a process enters the cgroup, None where the guard holds.
        peak_bytes, killed: known once the run has ended in a cgroup; `killed` says that it was killed at the limit.
    """

    limit_bytes: int | None
    entrance: Path | None = None
    peak_bytes: int | None = None
    killed: bool = False

    @property
    def kind(self) -> LimitKind:
        """Return the mechanism that enforces the limit."""
        return "guard" if self.entrance is None else "cgroup"


@dataclass(frozen=True)
class MemoryLimit:
    """Limits the worker of each run by `cgroup`; where there is none, by the guard alone, and `reason` says why."""

    cgroup: Cgroup | None = None
    reason: str | None = None

    @property
    def kind(self) -> LimitKind:
        """Return the mechanism that will enforce the limit."""
        return "guard" if self.cgroup is None else "cgroup"

    @contextlib.contextmanager
    def around(self, limit_bytes: int | None) -> Iterator[Limit]:
        """Limit the worker that runs inside the block, and clean up after it."""
        limit = Limit(limit_bytes)
        if self.cgroup is None:
            yield limit
            return
        try:
            limit.entrance = self.cgroup.begin(limit_bytes)
        except OSError as error:
            log.warning("memory_limit_not_set", error=str(error), limit="guard")
        try:
            yield limit
        finally:
            if limit.entrance is not None:
                try:
                    limit.peak_bytes, limit.killed = self.cgroup.end()
                except OSError as error:
                    log.warning("memory_limit_not_removed", error=str(error))


GUARD_ONLY = MemoryLimit()


def memory_limit() -> MemoryLimit:
    """Return the strictest limit available here; the log names it and the reason why it is not stricter."""
    try:
        limit = MemoryLimit(take_cgroup())
    except CgroupUnavailable as error:
        limit = MemoryLimit(reason=str(error))
    log.info("memory_limit", kind=limit.kind, reason=limit.reason)
    return limit
