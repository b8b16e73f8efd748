"""The clock of records: their order, what is doubted and for how long, and what comes of it for deletion and nights."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import DiskFull
from service.db import Database
from service.db.records import NewFeedback, ScheduledRun
from service.housekeeping.housekeeper import Housekeeper
from service.process.clock import CLOCK_NAME, Clock, judge
from service.schedule.cron import next_run
from service.schedule.scheduler import bring_forward
from service.settings.load import Settings
from tests.service.api.conftest import client_of, fake_app, wait_until
from tests.service.house import House
from tests.service.housekeeping.test_housekeeper import ask
from tests.service.schedule.test_scheduler import BERLIN, NIGHT, Device, at

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
UNSET = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Board:
    """A device whose clocks are set by hand; each `boot` is a start of the daemon."""

    file: Path
    wall: datetime = NOW
    running_s: float = 0.0
    newest: datetime | None = None
    limits: list[datetime | None] = field(default_factory=list)

    def boot(self) -> Clock:
        clock = Clock(self.file, lambda: self.wall, lambda: self.running_s)
        clock.begin(self.find)
        return clock

    def find(self, until: datetime | None) -> datetime | None:
        self.limits.append(until)
        return self.newest if self.newest is None or until is None or self.newest <= until else None

    def run(self, **passed: float) -> None:
        step = timedelta(**passed)
        self.wall, self.running_s = self.wall + step, self.running_s + step.total_seconds()


@pytest.fixture
def board(tmp_path) -> Board:
    return Board(tmp_path / CLOCK_NAME)


def codes(clock: Clock) -> list[str]:
    return [alarm.code for alarm in clock.problems()]


@pytest.mark.parametrize(
    ("wall", "known", "doubt"),
    [
        (NOW, None, None),
        (UNSET, None, "behind"),
        (NOW, NOW, None),
        (NOW - timedelta(seconds=90), NOW, None),
        (NOW - timedelta(minutes=3), NOW, "behind"),
        (UNSET, NOW, "behind"),
        (NOW + 29 * DAY, NOW, None),
        (NOW + 31 * DAY, NOW, "ahead"),
        (NOW + 3650 * DAY, NOW, "ahead"),
    ],
)
def test_a_time_is_doubted_that_does_not_fit_the_last_one(wall, known, doubt):
    assert judge(wall, known) == doubt


def test_the_clock_that_goes_right_is_the_system_s(board):
    clock = board.boot()
    for _ in range(3):
        board.run(hours=7)
        assert clock.now() == clock.for_ages() == board.wall
    board.wall += 20 * DAY  # switched off meanwhile
    assert (board.boot().now(), codes(clock)) == (board.wall, [])


@pytest.mark.parametrize("back", [timedelta(seconds=90), timedelta(hours=2), 100 * DAY, NOW - UNSET])
def test_records_keep_their_order_whatever_the_clock_does(board, back):
    clock = board.boot()
    made = [clock.now()]
    board.wall -= back
    for _ in range(3):
        made.append(clock.now())
        board.run(seconds=1)
    clock.close()
    board.newest = made[-1]
    clock = board.boot()
    made += [clock.now(), clock.now()]
    board.wall += back
    made.append(clock.now())
    assert made == sorted(set(made))
    assert made[-1] - made[0] < timedelta(seconds=5)
    assert made[-1] == board.wall


def test_a_leap_ahead_makes_nothing_older_until_the_daemon_has_run_so_for_a_fortnight(board):
    board.boot().close()
    board.wall += 3650 * DAY
    clock = board.boot()
    assert (codes(clock), clock.now(), clock.for_ages()) == (["clock_ahead"], board.wall, NOW)
    assert "3650 days after the last time known" in clock.problems()[0].message
    for _ in range(13):
        board.run(days=1)
        assert clock.for_ages() == NOW
        clock.close()
        board.wall += DAY  # while it is off
        clock = board.boot()
    board.run(days=1.1)
    assert (clock.for_ages(), codes(clock)) == (board.wall, [])
    clock.close()
    assert board.boot().for_ages() == board.wall


def test_a_clock_that_was_ahead_and_is_set_right_is_believed_at_once(board):
    clock = board.boot()
    board.wall += 3650 * DAY
    clock.now()
    board.run(days=3)
    board.wall -= 3650 * DAY
    assert (clock.now(), clock.for_ages(), codes(clock), clock.is_behind()) == (board.wall, board.wall, [], False)
    clock.close()
    board.newest = NOW + 3652 * DAY  # a record of those days
    board.run(seconds=1)
    assert board.boot().now() == board.wall


def test_a_clock_behind_is_believed_after_a_day_unless_it_was_never_set(board):
    clock = board.boot()
    board.wall -= 100 * DAY
    assert (clock.is_behind(), codes(clock)) == (True, ["clock_behind"])
    board.run(hours=25)
    assert (clock.is_behind(), clock.now()) == (False, board.wall)
    board.wall = UNSET
    for _ in range(10):
        board.run(days=1)
        assert clock.is_behind()
    assert "the clock says 1970-01-11 00:00 UTC" in clock.problems()[0].message


def test_without_the_file_the_newest_record_is_the_last_time_known_and_with_it_one_of_the_last_hours(board):
    board.newest = NOW
    board.wall = NOW - 3 * DAY
    assert (board.boot().is_behind(), board.limits) == (True, [None])
    board.newest = NOW + timedelta(minutes=30)  # of a daemon that was killed before it wrote the file
    board.wall = NOW + timedelta(minutes=10)
    clock = board.boot()
    assert (board.limits[-1], clock.is_behind()) == (NOW + timedelta(hours=2), True)
    board.newest = NOW + 20 * DAY
    board.wall = NOW + timedelta(minutes=40)
    assert not board.boot().is_behind()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"known": 5, "doubt": null, "doubted_s": 0}', '{"known": "x"}']
)
def test_a_file_that_cannot_be_read_counts_as_none(board, text):
    board.file.write_text(text)
    assert board.boot().now() == board.wall
    assert json.loads(board.file.read_text())["known"] == board.wall.isoformat()


def test_a_full_disk_and_a_database_that_cannot_be_read_prevent_no_start(board, monkeypatch):
    def refuse(*_: object) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr("service.process.clock.write_atomically", refuse)
    board.find = refuse  # type: ignore[method-assign]
    assert board.boot().now() == board.wall


def test_nothing_is_deleted_for_its_age_after_a_leap_and_everything_due_once_it_is_set_right(tmp_path):
    board = Board(tmp_path / CLOCK_NAME, wall=datetime.now(UTC))
    house, clock = House(tmp_path / "data", retention={"interaction_days": 90}), board.boot()
    keeper = Housekeeper(house.settings, house.db, house.store, house.switch, None, clock.for_ages)  # type: ignore[arg-type]
    ask(house)
    run = ScheduledRun("default", board.wall, board.wall, "ran", "")
    house.db.scheduled_runs.record(run)
    for years in (1, 10, 70):
        board.wall += years * 365 * DAY
        assert (keeper.tidy().interactions, house.db.scheduled_runs.list()) == (0, [run])
        board.wall -= years * 365 * DAY
    board.run(days=29)
    board.run(days=29)
    clock.now()
    board.run(days=29)
    assert keeper.tidy().interactions == 0
    board.run(days=5)
    assert keeper.tidy().interactions == 1
    house.close()


@pytest.mark.parametrize("wall", ["1970-01-01 00:10", "2026-06-01 23:00", "2026-06-02 02:50"])
def test_no_night_comes_twice_and_nothing_is_noted_while_the_clock_is_behind(tmp_path, wall):
    device, board = Device(tmp_path), Board(tmp_path / CLOCK_NAME, wall=at("2026-06-01 10:00"))
    clock = board.boot()

    def tick(moment: str | datetime) -> None:
        board.wall = device.now = at(moment) if isinstance(moment, str) else moment
        daemon = device.daemon()
        daemon._is_behind = clock.is_behind
        daemon.tick()

    tick("2026-06-01 12:00")
    tick("2026-06-02 03:00")
    assert device.runs == 1
    tick("2026-06-02 03:10")
    rows = device.cycles, device.db.scheduled_runs.last_run("default")
    clock.close()
    clock = board.boot()
    device.profiles.append("alice")  # new, so that her first time would be noted
    tick(wall)
    assert (device.cycles, device.db.scheduled_runs.last_run("default")) == rows
    assert device.db.scheduled_runs.last_run("alice") is None
    for moment in ("2026-06-02 03:20", "2026-06-02 12:00"):
        tick(moment)
    assert device.runs == 1
    device.profiles.remove("alice")
    tick(next_run(NIGHT, BERLIN, device.now))
    assert device.runs == 2
    device.db.close()


def test_rows_and_ids_of_every_kind_bear_the_clock_s_time(tmp_path):
    times = iter(NOW + timedelta(seconds=step) for step in range(100))
    db = Database(tmp_path / "lars-agent.db", lambda: next(times))
    assert db.newest() is None
    first, _ = db.feedback.add(NewFeedback(messages=({"role": "user", "content": "Hi"},), response="Yo", rating=1))
    db.imports.store([[NewFeedback(messages=({"role": "user", "content": "Ho"},), response="Yo", rating=1)]], 1)
    job, gone = db.jobs.add("default", "manual"), db.erasures.feedback(first.id)
    assert [record.created for record in (*reversed(db.feedback.list()), job, gone)] == [
        NOW + timedelta(seconds=step) for step in (1, 2, 3)
    ]
    assert first.id.startswith(f"f-{int(NOW.timestamp() * 1000):011x}")
    assert (db.newest(), db.newest(NOW + timedelta(seconds=2))) == (gone.created, NOW + timedelta(seconds=2))
    db.scheduled_runs.note_run("default", NOW + DAY)
    assert db.newest() == NOW + DAY
    db.close()


def test_jobs_do_not_wait_for_a_clock_that_was_set_back_to_catch_up(board, tmp_path):
    board.wall += 3650 * DAY
    clock, ran, back = board.boot(), threading.Event(), list[timedelta]()
    periodic = BackgroundScheduler(timezone=UTC)
    periodic.add_job(ran.set, "interval", days=1, next_run_time=datetime.now(UTC) + 3650 * DAY)
    periodic.start()
    clock.watch(lambda by: (back.append(by), bring_forward(periodic, by)), every_s=0.01)
    board.wall += timedelta(minutes=5)
    board.run(hours=1)
    assert not ran.wait(0.1)
    board.wall -= 3650 * DAY
    assert ran.wait(20)
    clock.close()
    periodic.shutdown()
    assert 3650 * DAY in back


def test_the_daemon_tells_of_its_clock_and_keeps_feedback_all_the_same(tmp_path, monkeypatch):
    settings = Settings(data_dir=tmp_path, schedule={"enabled": False})
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json() == {"status": "ok", "alarms": None} or client.get("/health").json() == {
            "status": "ok"
        }
        before = client.post("/generate", json={"inputs": "Hi"}).json()["interaction_id"]
    monkeypatch.setattr("service.app.Clock", lambda file: Clock(file, lambda: UNSET))
    with client_of(fake_app(settings)) as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json()["alarms"] == ["clock_behind"]
        assert "1970-01-01" in client.get("/info").json()["problems"][0]
        after = client.post("/generate", json={"inputs": "Hi"}).json()["interaction_id"]
        given = client.post("/feedback", json={"interaction_id": after, "rating": "up"})
        assert given.status_code == 201
        rows = [client.get(f"/interactions/{name}").json()["created"] for name in (before, after)]
        assert rows[0] < rows[1] < given.json()["created"]
        assert before < after
