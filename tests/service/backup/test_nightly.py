"""When a backup is due, what comes of one that fails, and that one is made at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.errors import ConfigError
from service.backup.folder import BackupFile
from service.backup.nightly import RETRY, Backups, due, require_schedule
from service.settings.load import Settings
from tests.service.house import House

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
NIGHTS = {"cron": "0 3 * * *", "timezone": "UTC", "window_hours": 4.0}


def made(hours_ago: float) -> BackupFile:
    return BackupFile(Path("/b"), "d", NOW - timedelta(hours=hours_ago), 1, False)


@pytest.mark.parametrize(
    ("cron", "found", "expected"),
    [
        (None, [], NOW),
        (None, [made(1)], NOW + timedelta(hours=19)),  # the next window closes at seven
        (None, [made(6)], NOW - timedelta(hours=5)),
        (None, [made(80)], NOW - timedelta(hours=77)),
        ("30 13 * * *", [made(1)], NOW + timedelta(hours=1.5)),
        ("30 11 * * *", [made(1)], NOW - timedelta(hours=0.5)),
        ("30 11 * * *", [made(-9000), made(25)], NOW - timedelta(hours=24.5)),
    ],
)
def test_the_next_one_follows_from_the_newest_that_is_there(cron, found, expected):
    assert due(Settings(schedule=NIGHTS, backup={"cron": cron}), found, NOW) == expected


def test_a_time_table_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"backup\.cron is 'daily'"):
        require_schedule(Settings(backup={"cron": "daily"}), NOW)


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "data", backup={"folder": str(tmp_path / "disk")}, schedule=NIGHTS)
    yield house
    house.close()


def test_a_backup_that_fails_is_an_alarm_until_one_succeeds_and_is_tried_again_after_an_hour(house, tmp_path):
    periodic, time = BackgroundScheduler(timezone=UTC), [NOW]
    backups = Backups(house.settings, lambda: None, periodic, lambda: time[0])

    def begun() -> bool:
        backups.tick()
        job = periodic.get_job("backup_now")
        periodic.remove_all_jobs()
        if job is not None:
            job.func()
        return job is not None

    assert begun()
    (alarm,) = backups.problems()
    assert (alarm.code, "is not there; is its disk connected" in alarm.message) == ("backup_failed", True)
    time[0] += RETRY / 2
    assert not begun()
    (tmp_path / "disk").mkdir()
    time[0] += RETRY / 2
    assert begun()
    assert [*backups.problems()] == []
    assert [one.path.name for one in backups.listed()] == [path.name for path in (tmp_path / "disk").iterdir()]
    assert not begun()
    time[0] = datetime(2026, 12, 1, 6, 59, tzinfo=UTC)
    assert not begun()
    time[0] += timedelta(minutes=1)
    assert begun()
    assert len(backups.listed()) == 2
    off = house.settings.model_copy(update={"backup": type(house.settings.backup)()})
    backups.use(off)
    time[0] += timedelta(days=9)
    assert not begun()


def test_none_is_begun_while_the_clock_is_doubted(house, tmp_path):
    periodic = BackgroundScheduler(timezone=UTC)
    Backups(house.settings, lambda: None, periodic, lambda: NOW, lambda: True).tick()
    assert periodic.get_jobs() == []
