"""Tells systemd that the server's event loop turns, and what the daemon is at, for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from starlette.concurrency import run_in_threadpool

from service.process.sd_notify import SdNotify

log = structlog.get_logger(__name__)

STATUS_S = 5.0


class Watchdog:
    """Tasks of the running event loop: one that hangs is noticed, because nothing is told any more.

    `status` says in a few words what the daemon is at.
    """

    def __init__(self, systemd: SdNotify, status: Callable[[], str], status_s: float = STATUS_S) -> None:
        self._systemd, self._status, self._status_s = systemd, status, status_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """systemd, if it listens, is told from now on."""
        if self._systemd.address is None:
            return
        self._tasks.append(asyncio.create_task(self._tell()))
        if self._systemd.watchdog_s is not None:
            self._tasks.append(asyncio.create_task(self._beat(self._systemd.watchdog_s / 2)))

    def stop(self) -> None:
        """Nothing is told any more."""
        for task in self._tasks:
            task.cancel()

    async def _beat(self, every_s: float) -> None:
        while True:
            self._systemd.tell("WATCHDOG=1")
            await asyncio.sleep(every_s)

    async def _tell(self) -> None:
        told = ""
        while True:
            try:
                words = await run_in_threadpool(self._status)  # a thread that waits keeps no heart from beating
            except Exception:
                log.exception("status_not_known")
                words = told
            if words != told:
                self._systemd.tell(f"STATUS={words}")
                told = words
            await asyncio.sleep(self._status_s)
