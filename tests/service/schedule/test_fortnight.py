"""Two weeks of a laptop and its users on a simulated clock, against what a user would want.

Schedule, idle policy, idle monitor and database are the real ones. Simulated are the device's measurements and the
work, which takes 90 minutes without pauses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import NothingToLearn
from service.cycle.supervisor import JobRunning
from service.db import Database
from service.db.records import JobRecord
from service.schedule.cron import ScheduleWindow
from service.schedule.idle_monitor import IdleMonitor
from service.schedule.idle_policy import DeviceState, Window
from service.schedule.scheduler import NightlyScheduler
from service.settings.load import Settings

BERLIN = ZoneInfo("Europe/Berlin")
TICK = timedelta(minutes=5)
WORK_MINUTES = 90
FULL = 1e9

# What happens from six in the evening of the day before to six in the evening; times are the clock's.
# at: when somebody sits at the keyboard but for 8:00 to 22:30; chat, battery, hot, busy, off, full, tight: when it is.
DAYS = [
    ("Tue 02", "an ordinary night", {}, ["03:00 begins", "04:30 done"]),
    ("Wed 03", "nothing new was said the day before", {"news": False}, ["03:00 skipped: nothing new was said"]),
    (
        "Thu 04",
        "somebody cannot sleep and chats for twenty minutes: it waits, and for five minutes more",
        {"chat": "03:30-03:50"},
        ["03:00 begins", "03:30 pauses: recent requests", "03:35 suspends", "03:50 goes on", "04:50 done"],
    ),
    (
        "Fri 05",
        "the laptop is plugged in at four",
        {"battery": "22:00-04:00"},
        ["03:00 waiting: battery", "04:00 begins", "05:30 done"],
    ),
    (
        "Sat 06",
        "on its battery all night; at noon it is plugged in and left alone: made up after half an hour",
        {"battery": "22:00-12:00", "away": "12:00-17:00"},
        [
            "03:00 waiting: battery",
            "07:00 missed: battery",
            "08:00 missed: people, battery",
            "12:00 missed: people",
            "12:25 begins",
            "13:55 done",
        ],
    ),
    (
        "Sun 07",
        "switched off at night, switched on at nine by somebody who works with it until eleven",
        {"off": "23:00-09:00", "away": "11:00-17:00"},
        ["09:00 missed: people", "11:25 begins", "12:55 done"],
    ),
    (
        "Mon 08",
        "a hot night: it stands still at once, leaves its memory, and goes on when the processor is cool again",
        {"hot": "03:20-04:20"},
        ["03:00 begins", "03:20 pauses: heat", "03:25 suspends", "04:20 goes on", "05:30 done"],
    ),
    (
        "Tue 09",
        "a backup runs until five",
        {"busy": "02:50-05:00"},
        ["03:00 waiting: cpu", "05:00 begins", "06:30 done"],
    ),
    (
        "Wed 10",
        "it begins late and the window ends before it is done; nobody leaves the laptop alone all day",
        {"battery": "22:00-06:30", "at": "06:50-08:00"},
        ["03:00 waiting: battery", "06:30 begins", "06:50 pauses: people", "06:55 suspends"],
    ),
    (
        "Thu 11",
        "they play until ten to three; then the same work goes on, and after it the night's own begins",
        {"at": "18:00-02:50"},
        ["03:00 goes on", "04:10 done", "04:15 begins", "05:45 done"],
    ),
    (
        "Fri 12",
        "the power goes for ten minutes: the work goes on by itself",
        {"off": "03:40-03:50"},
        ["03:00 begins", "03:50 recovers", "04:40 done"],
    ),
    (
        "Sat 13",
        "the disk is full until five",
        {"full": "20:00-05:00"},
        ["03:00 waiting: disk", "05:00 begins", "06:30 done"],
    ),
    (
        "Sun 14",
        "other programs hold the memory until half past three, and a cat walks over the keyboard",
        {"tight": "20:00-03:30", "at": "04:00-04:05"},
        ["03:00 waiting: memory", "03:30 begins", "04:00 pauses: people", "04:05 goes on", "05:05 done"],
    ),
    (
        "Mon 15",
        "on its battery all night, and somebody works with it all day: nothing happens, and it is known why",
        {"battery": "22:00-13:00"},
        [
            "03:00 waiting: battery",
            "07:00 missed: battery",
            "08:00 missed: people, battery",
            "13:00 missed: people",
        ],
    ),
]


@dataclass
class Worker:
    """A worker that only records the reasons for which it is paused."""

    clock: Clock
    pause_reasons: dict[str, datetime]
    alive: bool = False

    @property
    def pid(self) -> int | None:
        return 1 if self.alive else None

    def pause(self, name: str) -> None:
        self.pause_reasons.setdefault(name, self.clock.now)

    def resume(self, name: str) -> None:
        self.pause_reasons.pop(name, None)

    def paused_s(self) -> float:
        since = min(self.pause_reasons.values(), default=self.clock.now)
        return (self.clock.now - since).total_seconds()

    def suspend(self) -> None:
        if self.alive:
            self.clock.tell("suspends")
        self.alive = False


class Clock:
    """The time, and what has happened by it."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.told: dict[str, list[str]] = {}

    def tell(self, message: str) -> None:
        self.told.setdefault(f"{self.now:%a %d}", []).append(f"{self.now:%H:%M} {message}")

    def within(self, span: str | None) -> bool:
        """Whether it is between two times; a span that passes midnight began on the evening before."""
        if span is None:
            return False
        start, end = span.split("-")
        now = f"{self.now:%H:%M}"
        return start <= now < end if start < end else now >= start or now < end


class Laptop:
    """The device, its people and its work; `daemon` is made anew at each start."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db, self.clock = db, clock
        self.settings = Settings(data_dir=db.path.parent, schedule={"timezone": "Europe/Berlin"})
        self.minutes = 0
        self.news = True
        self.touched = self.asked = clock.now
        self.start()

    def start(self) -> None:
        self.worker = Worker(self.clock, {})
        window = ScheduleWindow(self.settings.schedule, lambda: self.clock.now)
        self.monitor = IdleMonitor(
            self.settings,
            self.worker,  # type: ignore[arg-type]
            read_state=self.read_state,
            window=window.state,
        )
        self.schedule = NightlyScheduler(
            window,
            self,  # type: ignore[arg-type]
            self.db.scheduled_runs,
            lambda: ["default"],
            self.monitor.decide_start,
            BackgroundScheduler(timezone=UTC),  # never started: `tick` is called by hand
        )

    @property
    def work(self) -> JobRecord | None:
        return self.monitor.work

    @work.setter
    def work(self, job: JobRecord | None) -> None:
        self.monitor.work = job

    def script(self) -> dict[str, object]:
        """What the day's line says: from six in the evening on, that of the day after."""
        name = f"{self.clock.now + timedelta(hours=6):%a %d}"
        return next((script for day, _, script, _ in DAYS if day == name), {})

    def is_(self, what: str) -> bool:
        return self.clock.within(self.script().get(what))  # type: ignore[arg-type]

    def read_state(self, window: Window) -> DeviceState:
        on = self.is_("battery")
        sight = DeviceState(
            window=window,
            request_age_s=(self.clock.now - self.asked).total_seconds(),
            away_s=(self.clock.now - self.touched).total_seconds(),
            others_cpu=0.9 if self.is_("busy") else 0.02,
            load=0.1,
            on_battery=on,
            battery=0.8 if on else 1.0,
            celsius=85.0 if self.is_("hot") else 55.0,
            available_bytes=int(0.5 * FULL) if self.is_("tight") else int(4 * FULL),
            memory_pressure=0.0,
            free_disk_bytes=0 if self.is_("full") else int(9 * FULL),
        )
        return replace(sight, throttled=None)  # no Raspberry Pi

    def adapt(self, profile: str, trigger: str) -> JobRecord:
        if self.db.jobs.unfinished():
            raise JobRunning("another job runs")
        if not self.news:
            raise NothingToLearn("nothing new was said")
        self.news, self.minutes = False, 0
        self.work = self.db.jobs.add(profile, "schedule", "something new was said")
        self.worker.alive = True
        self.clock.tell("begins")
        return self.work

    def recover(self) -> list[JobRecord]:
        if self.work is None and (left := self.db.jobs.unfinished()):
            self.work, self.worker.alive = left[0], True
            self.clock.tell("recovers")
        return []

    def tick(self) -> None:
        """Five minutes: what people do, what the daemon thinks of it, what the worker does."""
        if self.clock.now.hour == 18 and self.clock.now.minute == 0:
            self.news = self.script_of_tomorrow().get("news", True) is True
        if ("08:00" <= f"{self.clock.now:%H:%M}" < "22:30" or self.is_("at")) and not self.is_("away"):
            self.touched = self.clock.now
        if self.is_("chat"):
            self.asked = self.clock.now
        paused = dict(self.worker.pause_reasons)
        self.schedule.tick()
        self.monitor.check()
        self.narrate(paused)
        if self.work is not None and not self.worker.pause_reasons:
            self.minutes += 5

    def narrate(self, paused: dict[str, datetime]) -> None:
        if self.work is None:
            return
        if not paused and self.worker.pause_reasons:
            self.clock.tell(f"pauses: {', '.join(sorted(self.worker.pause_reasons))}")
        if paused and not self.worker.pause_reasons:
            self.worker.alive = True
            self.clock.tell("goes on")
        if self.minutes >= WORK_MINUTES:
            self.db.jobs.update(self.work.id, status="succeeded")
            self.work, self.worker.alive = None, False
            self.clock.tell("done")

    def script_of_tomorrow(self) -> dict[str, object]:
        name = f"{self.clock.now + timedelta(days=1):%a %d}"
        return next((script for day, _, script, _ in DAYS if day == name), {})


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory) -> dict[str, list[str]]:
    """What was told, by day."""
    db = Database(tmp_path_factory.mktemp("fortnight") / "lars-agent.db")
    clock = Clock(datetime(2026, 6, 1, 12, 0, tzinfo=BERLIN))
    laptop, off, seen = Laptop(db, clock), False, set()
    end = datetime(2026, 6, 15, 20, 0, tzinfo=BERLIN)
    while clock.now < end:
        was, off = off, laptop.is_("off")
        if was and not off:
            laptop.start()
        if not off:
            laptop.tick()
        for cycle in db.scheduled_runs.list():
            note = (cycle.scheduled, cycle.outcome, cycle.decided)
            if cycle.outcome != "ran" and note not in seen:
                seen.add(note)
                against = laptop.schedule._noted.get("default", (None, None, ()))[2]
                clock.tell(f"{cycle.outcome}: {', '.join(against) if cycle.outcome != 'skipped' else cycle.reason}")
        clock.now += TICK
    db.close()
    return clock.told


@pytest.mark.parametrize(("day", "what", "script", "wanted"), DAYS, ids=[f"{day}: {what}" for day, what, _, _ in DAYS])
def test_scheduled_run_goes_as_its_user_would_want(fortnight, day, what, script, wanted):
    assert fortnight.get(day, []) == wanted


def test_nothing_happens_on_other_days(fortnight):
    assert set(fortnight) == {day for day, _, _, _ in DAYS}
