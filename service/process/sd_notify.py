"""Notifications to systemd on the socket in NOTIFY_SOCKET, see sd_notify(3); none are sent without it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Self

import structlog
from starlette.concurrency import run_in_threadpool

log = structlog.get_logger(__name__)

SEND_S = 1.0
STATUS_S = 5.0


@dataclass(frozen=True)
class SdNotify:
    """The socket's address and the watchdog's timeout; None where systemd has set none."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Take the variables out of `environment`, so that child processes do not inherit them."""
        address = environment.pop("NOTIFY_SOCKET", None)
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", None)
        is_meant = usec.isdecimal() and int(usec) > 0 and pid in (None, str(os.getpid()))
        return cls(address or None, int(usec) / 1_000_000 if is_meant else None)

    def notify(self, *lines: str) -> None:
        """Send `lines`, such as `READY=1`, in one message. Never raises."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(SEND_S)
                end.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("sd_notify_failed", lines=lines, error=str(error))

    def notify_reloading(self) -> None:
        """Report that the settings are being read again; `READY=1` ends it."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


class Watchdog:
    """Reports to systemd from the running event loop that it is alive, and the daemon's `status` when it changes."""

    def __init__(self, systemd: SdNotify, status: Callable[[], str], status_s: float = STATUS_S) -> None:
        self._systemd, self._status, self._status_s = systemd, status, status_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start reporting, if systemd listens."""
        if self._systemd.address is None:
            return
        self._tasks.append(asyncio.create_task(self._report_status()))
        if self._systemd.watchdog_s is not None:
            self._tasks.append(asyncio.create_task(self._keep_alive(self._systemd.watchdog_s / 2)))

    def stop(self) -> None:
        """Stop reporting."""
        for task in self._tasks:
            task.cancel()

    async def _keep_alive(self, every_s: float) -> None:
        while True:
            self._systemd.notify("WATCHDOG=1")
            await asyncio.sleep(every_s)

    async def _report_status(self) -> None:
        reported = ""
        while True:
            try:
                status = await run_in_threadpool(self._status)  # it may wait for a lock, and the loop must not
            except Exception:
                log.exception("status_failed")
                status = reported
            if status != reported:
                self._systemd.notify(f"STATUS={status}")
                reported = status
            await asyncio.sleep(self._status_s)
