"""Standing problems of the disk that holds the data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from service.alarms import Alarm
from service.schedule.device import free_disk_bytes

LEAST_FREE_BYTES = 16 * 2**20  # a long correction, the database's log of it, and settings


def disk_alarms(data_dir: Path, database: Path) -> Iterator[Alarm]:
    """Yield an alarm if the disk of `data_dir` is full, and one if the folder or the database cannot be written to."""
    free = free_disk_bytes(data_dir)
    if free is not None and free < LEAST_FREE_BYTES:
        message = f"the disk of {data_dir} is full ({free / 2**20:.0f} MiB are free)"
        does = "corrections cannot be stored and nothing is learned until you free some space"
        yield Alarm("disk_full", f"{message}; {does}")
    locked = next((path for path in (data_dir, database) if not os.access(path, os.W_OK)), None)
    if locked is not None:
        message = f"{locked} cannot be written to; nothing is stored or learned until that is mended"
        yield Alarm("read_only", f"{message}: check its owner, and that its disk is not mounted read-only")
