"""The time of records: never earlier than that of the last one, and not believed at once where it leaps ahead.

A board without a battery for its clock starts in 1970, or where it stopped, until the network tells it the time; one
that was set wrong may be ahead by years. Which of two times is right cannot be known. So a time that is not plausible
is doubted, and taken for right once the daemon has run with it for long enough:

- ahead of the last time known by more than `LEAP`: records bear it, but nothing grows older by it;
- behind the last time known: records bear that one, a millisecond later each, and no night begins.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import structlog

from lars_agent.errors import LarsError
from lars_agent.files import write_atomically
from service.alarms import Alarm

log = structlog.get_logger(__name__)

CLOCK_NAME = "clock.json"
EARLIEST = datetime(2024, 1, 1, tzinfo=UTC)  # a clock that shows less has not been set
LEAP = timedelta(days=30)  # longer than a device is usually switched off
BACK = timedelta(minutes=2)  # by which the network sets any clock back
DAY_S, SAVE_S, WATCH_S = 86400.0, 3600.0, 60.0  # between two writes of the file, and two looks
TICK = timedelta(milliseconds=1)

Doubt = Literal["ahead", "behind"]
BELIEVED_S: Mapping[Doubt, float] = {"ahead": 14 * DAY_S, "behind": DAY_S}  # of running with a doubted time


def system_time() -> datetime:
    """Return the system's time."""
    return datetime.now(UTC)


class Clock:
    """The daemon's clock, which keeps the last time known in `file`; `wall` and `running_s` are the system's clocks.

    A file that cannot be read counts as none, and a failed write is logged, so that neither prevents a start.
    """

    def __init__(
        self,
        file: Path,
        wall: Callable[[], datetime] = system_time,
        running_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._wall, self._running_s = file, wall, running_s
        self._lock = threading.Lock()
        self._known, self._doubt, self._doubted_s = _read(file)
        self._last = self._known or EARLIEST  # of a record
        self._read_at = self._saved_at = running_s()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, newest: Callable[[datetime | None], datetime | None]) -> None:
        """Look for records that are newer than the file: `newest` returns the newest one's time, up to the given one.

        Without a file any record is believed.
        """
        until = None if self._known is None else self._known + timedelta(seconds=2 * SAVE_S)
        try:
            found = newest(until)
        except LarsError as error:
            log.warning("newest_record_unknown", error=str(error))
        else:
            self._known = max(filter(None, (found, self._known)), default=None)
            self._last = self._known or self._last
        self._look()
        self._save()

    def watch(self, on_set_back: Callable[[timedelta], object], every_s: float = WATCH_S) -> None:
        """Look regularly in a thread; call `on_set_back` with by how much the clock was set back, each time it was."""
        self._thread = threading.Thread(target=self._watch, args=(on_set_back, every_s), name="clock", daemon=True)
        self._thread.start()

    def now(self) -> datetime:
        """Return the time for a new record."""
        with self._lock:
            wall, known = self._look(), self._known or EARLIEST
            if self._doubt == "behind":
                self._last = max(known, self._last if self._last < known + LEAP else known) + TICK
            elif wall > self._last or wall < self._last - BACK:  # or it was ahead, and has been set right
                self._last = wall
            else:
                self._last += TICK
            return self._last

    def for_ages(self) -> datetime:
        """Return the time by which the age of a record counts: a doubted one makes nothing older."""
        with self._lock:
            return min(self._look(), self._known or EARLIEST)

    def is_behind(self) -> bool:
        """Return whether the clock is behind the last time known."""
        with self._lock:
            self._look()
            return self._doubt == "behind"

    def problems(self) -> list[Alarm]:
        """Return the alarm about a doubted time."""
        with self._lock:
            wall, known = self._look(), self._known or EARLIEST
            if self._doubt is None:
                return []
            left = (BELIEVED_S[self._doubt] - self._doubted_s) / DAY_S
        if self._doubt == "ahead":
            message = f"the clock says {_text(wall)}, {(wall - known).days} days after the last time known"
            does = f"nothing is deleted for its age until {left:.0f} days have passed with it; set it if it is wrong"
            return [Alarm("clock_ahead", f"{message}; {does}")]
        message = f"the clock says {_text(wall)}, but the last time known is {_text(known)}"
        return [Alarm("clock_behind", f"{message}; until it is set, records bear that time and no night begins")]

    def close(self) -> None:
        """Stop watching, and write the last time known."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._look()
            self._save()

    def _watch(self, on_set_back: Callable[[timedelta], object], every_s: float) -> None:
        before = self._wall(), self._running_s()
        while not self._closing.wait(every_s):
            with self._lock:
                wall = self._look()
            back = before[0] - wall + timedelta(seconds=self._read_at - before[1])
            before = wall, self._read_at
            if back > BACK:
                log.warning("clock_set_back", time=wall.isoformat(), seconds=int(back.total_seconds()))
                on_set_back(back)

    def _look(self) -> datetime:
        """Read the system's clocks and return the time, after judging it."""
        wall, running_s = self._wall(), self._running_s()
        passed_s, self._read_at = running_s - self._read_at, running_s
        before, self._doubt = self._doubt, judge(wall, self._known)
        self._doubted_s = self._doubted_s + passed_s if self._doubt == before else 0.0
        if self._doubt is not None and self._doubted_s >= BELIEVED_S[self._doubt] and wall >= EARLIEST:
            log.warning("clock_believed", time=wall.isoformat(), doubt=self._doubt)
            self._known, self._doubt = wall, None
        elif self._doubt is None:
            self._known = max(wall, self._known or wall)
        if self._doubt != before:
            log.warning("clock_doubted" if self._doubt else "clock_plausible", time=wall.isoformat(), doubt=self._doubt)
        if self._doubt != before or running_s - self._saved_at > SAVE_S:
            self._save()
        return wall

    def _save(self) -> None:
        self._saved_at = self._read_at
        known = None if self._known is None else self._known.isoformat()
        state = {"known": known, "doubt": self._doubt, "doubted_s": self._doubted_s}
        try:
            write_atomically(self._file, json.dumps(state) + "\n")
        except (OSError, LarsError) as error:
            log.warning("clock_not_kept", error=str(error))


def judge(wall: datetime, known: datetime | None) -> Doubt | None:
    """Return the doubt about the time `wall` after the last time `known`. Pure."""
    if wall < EARLIEST or (known is not None and wall < known - BACK):
        return "behind"
    return "ahead" if known is not None and wall > known + LEAP else None


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _read(file: Path) -> tuple[datetime | None, Doubt | None, float]:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
        known = None if state["known"] is None else datetime.fromisoformat(state["known"]).astimezone(UTC)
        doubt: Doubt | None = state["doubt"] if state["doubt"] in BELIEVED_S else None
        return known, doubt, float(state["doubted_s"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None, None, 0.0
