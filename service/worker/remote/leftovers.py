"""Have removed what cut connections have left on other machines, and tell of what is left."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from service.alarms import Alarm
from service.settings.runner import SshAddress, parse_runner
from service.worker.remote.carrier import connected, greet
from service.worker.remote.connection import Cut
from service.worker.remote.records import Left, left

log = structlog.get_logger(__name__)

FIRST_S, EVERY_S = 5.0, 600.0


class Leftovers:
    """What may be left on other machines, by the records in the folder `records`; asked for as a job of `periodic`."""

    def __init__(self, records: Path, periodic: BackgroundScheduler) -> None:
        self._records, self._periodic = records, periodic
        self._cleaning = threading.Lock()

    def start(self) -> None:
        """Ask soon, and every ten minutes."""
        first = datetime.now(UTC) + timedelta(seconds=FIRST_S)
        self._periodic.add_job(self.clean, "interval", seconds=EVERY_S, next_run_time=first, misfire_grace_time=None)

    def clean_soon(self) -> None:
        """Ask now if there is anything to ask for."""
        if left(self._records):
            self._periodic.add_job(self.clean, misfire_grace_time=None)

    def clean(self) -> list[Left]:
        """Call each machine on which something may be left, and return what may be left there still."""
        with self._cleaning:
            for text in sorted({one.address for one in left(self._records)}):
                try:
                    address = parse_runner(text)
                    assert isinstance(address, SshAddress)
                    with connected(address, is_quiet=True) as there:
                        greet(there, address, self._records)
                except (Cut, OSError, ValueError) as error:
                    log.info("not_removed_elsewhere", runner=text, reason=str(error))
            return left(self._records)

    def problems(self) -> list[Alarm]:
        """Return an alarm for each machine on which something may be left."""
        return [
            Alarm(
                "left_elsewhere",
                f"what a job learned from may still be on {address}: the connection was cut before it was removed; it "
                "is removed as soon as that machine can be reached, or by hand, as docs/elsewhere.md says",
            )
            for address in sorted({one.address for one in left(self._records)})
        ]
