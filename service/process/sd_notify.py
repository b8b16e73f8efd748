"""What systemd is told, on the socket that it names in NOTIFY_SOCKET, see sd_notify(3); nothing where there is none."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Self

import structlog

log = structlog.get_logger(__name__)

SEND_S = 1.0


@dataclass(frozen=True)
class SdNotify:
    """Who started this process: where it listens (None: nowhere), and how often it wants a beat (None: never)."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def met(cls, environment: MutableMapping[str, str]) -> Self:
        """As the environment has it, out of which it is taken: processes that are started from here are not meant."""
        address = environment.pop("NOTIFY_SOCKET", None)
        usec, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", None)
        is_meant = usec.isdecimal() and int(usec) > 0 and pid in (None, str(os.getpid()))
        return cls(address or None, int(usec) / 1_000_000 if is_meant else None)

    def tell(self, *lines: str) -> None:
        """systemd, if it listens, has been told `lines`, such as `READY=1`. Never raises."""
        if self.address is None:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(SEND_S)
                end.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("systemd_not_told", lines=lines, error=str(error))

    def tell_reloading(self) -> None:
        """The settings are being read again, until `READY=1` is told."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
