"""The limit of open files, and how many of them may be connections."""

from __future__ import annotations

import math
import resource
from contextlib import suppress

import structlog

log = structlog.get_logger(__name__)


def open_files_left(wanted: int, reserved: int) -> int:
    """Return how many files of those `wanted` may be opened so that `reserved` others can be; a quarter at least.

    Raises this process's soft limit as far as that takes, up to the hard one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files, most = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard))
    if files < wanted + reserved and files < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(min(wanted + reserved, most)), hard))
            files = min(wanted + reserved, most)
    left = int(min(wanted, max(files - reserved, files // 4)))
    if left < wanted:
        log.warning("open_files_limited", limit=int(files), wanted=wanted, left=left)
    return left
