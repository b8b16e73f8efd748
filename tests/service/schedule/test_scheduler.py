"""Scheduled runs: their times, that each comes once, and that a missed one is made up once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from hypothesis import given
from hypothesis import strategies as st

from lars_agent.errors import ConfigError, LarsError, ModelLoading, NothingToLearn
from service.cycle.supervisor import JobRunning
from service.db import Database
from service.db.records import JobRecord
from service.schedule.cron import ScheduleWindow, missed_run, next_run
from service.schedule.idle_policy import Check, IdleDecision
from service.schedule.scheduler import NightlyScheduler
from service.settings.load import Schedule
from tests.service.house import until

BERLIN = "Europe/Berlin"
NIGHT = "0 3 * * *"


def at(text: str, timezone: str = BERLIN, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone), fold=fold)


def utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


class FakeSupervisor:
    """Remembers what it was asked for, and may refuse."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.error: LarsError | None = None
        self.recoveries = 0

    def adapt(self, profile: str, trigger: str) -> JobRecord:
        if self.error is not None:
            raise self.error
        self.asked.append((profile, trigger))
        return JobRecord("j-1", profile, "schedule", "queued", at("2026-06-02 03:00"), reason="4 new examples")

    def recover(self) -> list[JobRecord]:
        self.recoveries += 1
        return []


class Device:
    """A clock that is set by hand, a real database, and the daemons that come and go on it."""

    def __init__(self, tmp_path) -> None:
        self.db = Database(tmp_path / "lars-agent.db")
        self.supervisor = FakeSupervisor()
        self.profiles = ["default"]
        self.now = at("2026-06-01 12:00")
        self.moment = IdleDecision(())
        self.periodic = BackgroundScheduler(timezone=UTC)

    def daemon(self, **schedule) -> NightlyScheduler:
        settings = Schedule(**{"cron": NIGHT, "timezone": BERLIN, **schedule})
        return NightlyScheduler(
            ScheduleWindow(settings, lambda: self.now),
            self.supervisor,
            self.db.scheduled_runs,
            lambda: self.profiles,
            lambda window: self.moment,
            self.periodic,
        )

    @property
    def cycles(self) -> list[tuple[str, str, str]]:
        """Time, outcome and reason of each scheduled run, latest first."""
        return [(utc(cycle.scheduled), cycle.outcome, cycle.reason) for cycle in self.db.scheduled_runs.list()]

    @property
    def runs(self) -> int:
        return len(self.supervisor.asked)


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path)
    yield device
    device.db.close()


def test_run_comes_at_its_hour_in_its_time_zone():
    assert utc(next_run(NIGHT, BERLIN, at("2026-06-01 12:00"))) == "2026-06-02 01:00"
    assert utc(next_run(NIGHT, "Asia/Tokyo", at("2026-06-01 12:00"))) == "2026-06-01 18:00"
    assert utc(next_run(NIGHT, BERLIN, at("2026-12-01 12:00"))) == "2026-12-02 02:00"


def test_next_run_is_later_than_the_given_time():
    assert utc(next_run(NIGHT, BERLIN, at("2026-06-01 03:00"))) == "2026-06-02 01:00"


def test_time_skipped_by_summer_time_comes_once_right_after_the_change():
    before = at("2026-03-28 12:00")
    first = next_run("30 2 * * *", BERLIN, before)
    assert utc(first) == "2026-03-29 01:00"  # 03:00 by the clock that was put forward
    assert utc(next_run("30 2 * * *", BERLIN, first)) == "2026-03-30 00:30"


def test_time_that_comes_twice_when_summer_time_ends_counts_once():
    first = next_run("30 2 * * *", BERLIN, at("2026-10-24 12:00"))
    assert utc(first) == "2026-10-25 00:30"
    assert utc(next_run("30 2 * * *", BERLIN, first)) == "2026-10-26 01:30"
    between = first + timedelta(minutes=10)
    assert missed_run("30 2 * * *", BERLIN, between, at("2026-10-25 12:00")) is None
    assert utc(next_run("30 2 * * *", BERLIN, at("2026-10-25 02:10", fold=1))) == "2026-10-26 01:30"


def test_missed_run_is_due_from_its_time_until_a_run_is_recorded():
    evening, morning = at("2026-06-01 22:00"), at("2026-06-02 09:00")
    assert missed_run(NIGHT, BERLIN, evening, at("2026-06-02 02:59")) is None
    assert missed_run(NIGHT, BERLIN, evening, at("2026-06-02 03:00")) == at("2026-06-02 03:00")
    assert missed_run(NIGHT, BERLIN, evening, morning) == at("2026-06-02 03:00")
    assert missed_run(NIGHT, BERLIN, morning, at("2026-06-02 22:00")) is None


@given(st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)), st.integers(0, 23), st.integers(0, 59))
def test_one_run_a_day_across_clock_changes(moment, hour, minute):
    after = moment.replace(tzinfo=UTC)
    first = next_run(f"{minute} {hour} * * *", BERLIN, after)
    second = next_run(f"{minute} {hour} * * *", BERLIN, first)
    assert after < first.astimezone(UTC) <= after + timedelta(hours=25)
    assert (second.date() - first.date()).days == 1


@pytest.mark.parametrize(
    ("field", "days"),
    [("0", "Sun"), ("7", "Sun"), ("1-5", "Mon Tue Wed Thu Fri"), ("5-7", "Fri Sat Sun"), ("*/3", "Sun Wed Sat"),
     ("mon,3", "Mon Wed"), ("sat-sun", "Sat Sun"), ("6,0", "Sat Sun"), ("1-5/2", "Mon Wed Fri")],
)  # fmt: skip
def test_weekdays_are_numbered_as_in_crontab(field, days):
    moment, found = at("2026-06-01 12:00"), set()
    for _ in range(7):
        moment = next_run(f"0 3 * * {field}", BERLIN, moment)
        found.add(moment.strftime("%a"))
    assert found == set(days.split())


def test_day_of_month_and_weekday_are_alternatives_as_in_crontab():
    moments, moment = [], at("2026-06-01 12:00")
    for _ in range(3):
        moment = next_run("0 3 15 * 1", BERLIN, moment)
        moments.append(moment.strftime("%a %d"))
    assert moments == ["Mon 08", "Mon 15", "Mon 22"]
    assert next_run("0 3 18 * 1", BERLIN, at("2026-06-16 12:00")).day == 18


@pytest.mark.parametrize(
    "cron",
    [
        *("", "3", "at night", "0 3 * *", "0 3 * * * *", "61 3 * * *", "0 24 * * *", "0 3 * * 9", "0 3 * * 5-1"),
        *("0 3 * * 1/0", "0 3 30 2 *", "0 3 31 2,4,6 *", f"{'9' * 5000} 3 * * *", "0 3 * * someday", "*/0 3 * * *"),
    ],
)
def test_bad_cron_expression_is_named(cron, device):
    with pytest.raises(ConfigError, match=r"schedule\.cron is ") as caught:
        device.daemon(cron=cron)
    assert repr(cron) in str(caught.value)


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "Europe", "../../etc/passwd", "CEST-ish"])
def test_bad_time_zone_is_named(timezone, device):
    with pytest.raises(ConfigError, match=r"schedule\.timezone is ") as caught:
        device.daemon(timezone=timezone)
    assert repr(timezone) in str(caught.value)


def test_time_zone_of_the_device_is_taken_when_none_is_set():
    assert next_run(NIGHT, None, datetime.now(UTC)).hour == 3


def test_first_daemon_on_a_device_has_no_missed_run(device):
    device.daemon().tick()
    assert device.runs == 0
    device.now = at("2026-06-02 03:00")
    device.daemon().tick()
    assert device.supervisor.asked == [("default", "schedule")]


def test_missed_run_is_made_up_once_however_often_the_daemon_restarts(device):
    device.daemon().tick()
    device.now = at("2026-06-02 09:00")  # the device was off at three
    for _ in range(3):
        device.daemon().tick()
    assert device.runs == 1
    device.now = at("2026-06-02 23:00")
    device.daemon().tick()
    assert device.runs == 1
    device.now = at("2026-06-03 03:00")
    device.daemon().tick()
    assert device.runs == 2


def test_many_missed_runs_are_made_up_by_one(device):
    device.daemon().tick()
    device.now += timedelta(days=30)
    daemon = device.daemon()
    daemon.tick()
    daemon.tick()
    assert device.runs == 1


def test_run_in_the_repeated_hour_comes_once(device):
    device.now = at("2026-10-24 12:00")
    daemon = device.daemon(cron="30 2 * * *")
    daemon.tick()
    for moment in (at("2026-10-25 02:30"), at("2026-10-25 02:30", fold=1), at("2026-10-25 12:00")):
        device.now = moment
        daemon.tick()
    assert device.runs == 1


@pytest.mark.parametrize("error", [JobRunning("job j-1 is running"), ModelLoading("loading")])
def test_run_that_has_to_wait_stays_due(device, error):
    daemon = device.daemon()
    daemon.tick()
    device.now = at("2026-06-02 03:00")
    device.supervisor.error = error
    daemon.tick()
    device.supervisor.error = None
    device.now = at("2026-06-02 03:20")
    daemon.tick()
    daemon.tick()
    assert device.runs == 1


@pytest.mark.parametrize("error", [NothingToLearn("no feedback has come"), ConfigError("bad")])
def test_run_without_news_or_with_an_error_is_over(device, error):
    daemon = device.daemon()
    daemon.tick()
    device.now = at("2026-06-02 03:00")
    device.supervisor.error = error
    daemon.tick()
    device.supervisor.error = None
    daemon.tick()
    assert device.runs == 0


def test_each_profile_has_its_run(device):
    device.profiles = ["default", "alice"]
    daemon = device.daemon()
    daemon.tick()
    device.now = at("2026-06-02 03:00")
    daemon.tick()
    assert device.supervisor.asked == [("default", "schedule"), ("alice", "schedule")]


def test_corrected_clock_does_not_stop_the_schedule(device):
    device.now = at("2099-01-01 12:00")
    device.daemon().tick()
    device.now = at("2026-06-01 12:00")
    device.daemon().tick()
    assert device.runs == 0
    device.now = at("2026-06-02 03:00")
    device.daemon().tick()
    assert device.runs == 1


def test_disabled_schedule_runs_nothing_and_has_no_next_run(device):
    device.daemon().tick()
    daemon = device.daemon(enabled=False)
    device.now = at("2026-06-02 03:00")
    daemon.tick()
    assert device.runs == 0
    assert device.cycles == []
    assert daemon.next_run() is None


def test_next_run_is_reported(device):
    assert device.daemon().next_run() == at("2026-06-02 03:00")


def test_started_schedule_makes_up_a_missed_run(device):
    device.daemon().tick()
    device.now = at("2026-06-02 09:00")
    daemon = device.daemon()
    daemon.start(first_tick_s=0)
    daemon.start(first_tick_s=0)  # twice is once
    device.periodic.start()
    until(lambda: device.runs, "the night that was missed")
    device.periodic.shutdown()
    assert device.runs == 1


HOT = IdleDecision((Check("heat", "against", "the processor has 85 °C"),))


def test_every_scheduled_run_leaves_a_row_with_outcome_and_reason(device):
    daemon = device.daemon()
    daemon.tick()
    device.now = at("2026-06-02 03:00")
    device.moment = HOT
    daemon.tick()
    assert device.cycles == [("2026-06-02 01:00", "waiting", "the processor has 85 °C")]
    device.now = at("2026-06-02 04:00")
    device.moment = IdleDecision(())
    daemon.tick()
    assert device.cycles == [("2026-06-02 01:00", "ran", "4 new examples")]
    assert device.db.scheduled_runs.list()[0].job_id == "j-1"
    device.supervisor.error = NothingToLearn("no feedback has come")
    device.now = at("2026-06-03 03:00")
    daemon.tick()
    assert device.cycles[0] == ("2026-06-03 01:00", "skipped", "no feedback has come")
    assert device.runs == 1


@pytest.mark.parametrize("make_up", [True, False])
def test_run_whose_window_has_passed_is_missed_and_stays_due_if_it_is_to_be_made_up(device, make_up):
    daemon = device.daemon(make_up=make_up)
    daemon.tick()
    device.moment, device.now = HOT, at("2026-06-02 06:59")
    daemon.tick()
    assert device.cycles[0][1] == "waiting"
    device.now = at("2026-06-02 07:01")
    daemon.tick()
    assert device.cycles[0][1] == "missed"
    device.moment, device.now = IdleDecision(()), at("2026-06-02 12:00")
    daemon.tick()
    assert device.cycles[0][1] == ("ran" if make_up else "missed")
    device.now = at("2026-06-03 03:00")
    daemon.tick()
    assert device.runs == (2 if make_up else 1)


def test_window_is_open_from_the_scheduled_time_until_its_end(device):
    for hour, make_up, wanted in (
        ("02:59", True, "overdue"),
        ("02:59", False, "shut"),
        ("03:00", False, "open"),
        ("06:59", False, "open"),
        ("07:00", False, "shut"),
        ("07:00", True, "overdue"),
    ):
        device.now = at(f"2026-06-02 {hour}")
        assert device.daemon(make_up=make_up)._window.state(begun=True) == wanted
    assert device.daemon(enabled=False)._window.state(begun=True) == "shut"


def test_window_is_shut_where_no_run_is_due(device):
    daemon = device.daemon()
    daemon.tick()
    device.now = at("2026-06-02 03:00")
    assert daemon._window.state(begun=False) == "shut"
    device.moment = HOT
    daemon.tick()
    assert daemon._window.state(begun=False) == "open"
    device.moment = IdleDecision(())
    daemon.tick()
    assert daemon._window.state(begun=False) == "shut"


@pytest.mark.parametrize("hours", [-30, -2, 2, 30])
def test_clock_jump_skips_no_run_and_repeats_none(device, hours):
    daemon = device.daemon()
    daemon.tick()
    device.now = at("2026-06-02 03:00")
    daemon.tick()
    assert device.runs == 1
    device.now += timedelta(hours=hours)
    daemon.tick()
    device.supervisor.error = NothingToLearn("no feedback has come")  # as the real one says
    moment = device.now
    while device.now < moment + timedelta(hours=48):
        device.now += timedelta(hours=1)
        daemon.tick()
    device.supervisor.error = None
    device.now = next_run(NIGHT, BERLIN, device.now)
    daemon.tick()
    assert device.runs == (3 if hours == 30 else 2)


def test_unfinished_jobs_are_recovered_at_each_tick(device):
    device.daemon().tick()
    assert device.supervisor.recoveries == 1


def test_tick_that_raises_is_followed_by_the_next_one(device, monkeypatch, caplog):
    ticks = []

    def fail() -> list[JobRecord]:
        ticks.append(datetime.now(UTC))
        raise OSError("the disk is gone")

    monkeypatch.setattr(device.supervisor, "recover", fail)
    daemon = device.daemon()
    daemon.start(first_tick_s=0)
    device.periodic.start()
    until(lambda: "the disk is gone" in caplog.text, "the error is logged")
    (job,) = device.periodic.get_jobs()
    assert (job.next_run_time.second, job.next_run_time > ticks[0]) == (0, True)
    job.modify(next_run_time=datetime.now(UTC))
    until(lambda: len(ticks) == 2, "the next tick")
    device.periodic.shutdown()


def test_slow_job_of_the_same_scheduler_delays_no_tick(device):
    began, release = threading.Event(), threading.Event()
    device.periodic.add_job(lambda: began.set() or release.wait())
    device.periodic.start()
    assert began.wait(30)
    device.daemon().start(first_tick_s=0)
    until(lambda: device.supervisor.recoveries, "a tick")
    assert not release.is_set()
    release.set()
    device.periodic.shutdown()
