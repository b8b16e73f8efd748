"""The idle monitor, with a worker that is a real process and a simulated device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.schedule.idle_monitor import IdleMonitor
from service.schedule.idle_policy import DeviceState, Window
from tests.service.house import House, state_of, until

CALM = DeviceState(celsius=50.0, free_disk_bytes=10**12, on_battery=False, away_s=1e6, request_age_s=1e6)
HOT = replace(CALM, celsius=95.0)


class Device:
    """A house, its watch, and what the watch sees."""

    def __init__(self, house: House, *flags: str) -> None:
        self.house, self.seen, self.window = house, CALM, "open"
        self.supervisor = house.supervisor(*flags, watching=lambda job: self.monitor.watching(job))
        self.monitor = IdleMonitor(
            house.settings,
            house.worker,
            read_state=self.read_state,
            window=lambda begun: self.window,  # type: ignore[arg-type, return-value]
        )

    def read_state(self, window: Window) -> DeviceState:
        return replace(self.seen, window=window)

    def at_work(self, job) -> int:
        until(lambda: any(line["step"] > 0 for line in self.supervisor.progress(job.id)), "a step of the worker")
        assert self.supervisor._worker.pid is not None
        return self.supervisor._worker.pid


@pytest.fixture
def go(tmp_path):
    return tmp_path / "go"


@pytest.fixture
def device(tmp_path, go):
    house = House(tmp_path / "data", idle={"resume_s": 0.05, "park_s": 3600.0})
    house.correct()
    yield Device(house, "--wait", str(go))
    house.close()


def test_heat_pauses_the_worker_at_once_and_cooling_resumes_it(device, go):
    job = device.supervisor.adapt(trigger="schedule")
    pid = device.at_work(job)
    device.seen = HOT
    assert not device.monitor.check().is_good
    until(lambda: state_of(pid) == "T", "the worker stands still")
    device.seen = replace(CALM, celsius=75.0)  # not yet cool enough to begin
    device.monitor.check()
    assert state_of(pid) == "T"
    device.seen = CALM
    assert device.monitor.check().is_good
    until(lambda: state_of(pid) != "T", "the worker goes on")
    go.touch()
    assert device.supervisor.wait(30)
    row = device.house.db.jobs.get(job.id)
    assert row.status == "succeeded"
    assert set(row.pauses) == {"heat"}
    assert row.pauses["heat"]["count"] == 1
    assert row.pauses["heat"]["seconds"] > 0


def test_long_pause_suspends_the_worker_and_another_one_continues_from_its_checkpoint(device, go):
    device.monitor.use(device.house.settings.model_copy(update={"idle": device.house.settings.idle.model_copy(
        update={"park_s": 0.0})}))  # fmt: skip
    job = device.supervisor.adapt(trigger="schedule")
    pid = device.at_work(job)
    device.seen = HOT
    device.monitor.check()
    until(lambda: state_of(pid) == "X", "the worker has ended")
    until(lambda: device.supervisor._worker.pid is None, "the daemon has seen it")
    assert device.supervisor.current == job.id
    assert device.house.db.jobs.get(job.id).status == "running"
    device.monitor.check()  # there is no worker left to suspend
    go.touch()
    device.seen = CALM
    device.monitor.check()
    assert device.supervisor.wait(30)
    row = device.house.db.jobs.get(job.id)
    assert (row.status, row.attempts) == ("succeeded", 1)
    lines = device.supervisor.progress(job.id)
    assert len({line["pid"] for line in lines}) == 2
    resumed = [line["resumed"] for line in lines if "resumed" in line]
    assert resumed[0] == 0 < resumed[1]
    assert row.pauses["heat"]["count"] >= 1


def test_suspending_a_worker_does_not_count_as_a_failed_try(device, go):
    device.monitor.use(device.house.settings.model_copy(update={"idle": device.house.settings.idle.model_copy(
        update={"park_s": 0.0})}))  # fmt: skip
    job = device.supervisor.adapt(trigger="schedule")
    for _ in range(5):
        device.seen = CALM
        device.monitor.check()
        until(lambda: device.supervisor._worker.pid is not None, "a worker")
        device.seen = HOT
        device.monitor.check()
        until(lambda: device.supervisor._worker.pid is None, "none")
    go.touch()
    device.seen = CALM
    device.monitor.check()
    assert device.supervisor.wait(30)
    assert device.house.db.jobs.get(job.id).status == "succeeded"


def test_job_that_starts_on_a_busy_device_waits_before_it_takes_memory(device, go):
    device.seen = HOT
    job = device.supervisor.adapt(trigger="manual")
    until(lambda: device.supervisor._worker.pause_reasons == {"heat"}, "the worker is paused")
    assert device.supervisor._worker.pid is None
    go.touch()
    device.seen = CALM
    device.monitor.check()
    assert device.supervisor.wait(30)
    assert device.house.db.jobs.get(job.id).status == "succeeded"


def test_end_of_the_window_pauses_scheduled_jobs_and_not_those_of_a_user(device, go):
    device.window = "shut"
    job = device.supervisor.adapt(trigger="manual")
    device.at_work(job)
    assert device.monitor.check().is_good
    go.touch()
    assert device.supervisor.wait(30)
    go.unlink()
    device.window = "open"
    device.house.correct(6)
    device.supervisor.adapt(trigger="schedule")
    until(lambda: device.supervisor._worker.pid is not None, "a worker")
    device.window = "shut"
    device.monitor.check()
    assert device.supervisor._worker.pause_reasons == {"window"}
    device.window = "open"
    device.monitor.check()
    assert device.supervisor._worker.pause_reasons == frozenset()


def test_monitor_checks_in_its_thread_survives_a_failing_read_and_resumes_the_worker_when_closed(
    device, go, monkeypatch
):
    monkeypatch.setattr("service.schedule.idle_monitor.WAITING_S", 0.01)
    monkeypatch.setattr("service.schedule.idle_monitor.WORKING_S", 0.01)
    device.monitor.start()
    job = device.supervisor.adapt(trigger="schedule")
    device.at_work(job)
    device.seen = None  # whatever is asked of it fails
    device.seen = HOT
    until(lambda: device.supervisor._worker.pause_reasons == {"heat"}, "paused")
    device.monitor.close()
    assert device.supervisor._worker.pause_reasons == frozenset()


def test_checks_are_rare_without_a_job_and_frequent_with_one(device, go, monkeypatch):
    monkeypatch.setattr("service.schedule.idle_monitor.WAITING_S", 3600.0)
    monkeypatch.setattr("service.schedule.idle_monitor.WORKING_S", 0.01)
    waits, wait = [], device.monitor._woken.wait
    monkeypatch.setattr(device.monitor._woken, "wait", lambda timeout_s: waits.append(timeout_s) or wait(timeout_s))
    device.monitor.start()
    until(lambda: waits == [3600.0], "the watch has begun to wait")
    device.at_work(device.supervisor.adapt(trigger="schedule"))
    device.seen = HOT
    until(lambda: device.supervisor._worker.pause_reasons == {"heat"}, "paused")
    device.monitor.close()


def test_refresh_checks_again_only_once_the_last_check_is_old(device, monkeypatch):
    monkeypatch.setattr("service.schedule.idle_monitor.FRESH_S", 0.0)
    device.monitor.refresh()
    assert device.monitor.decision.checks == ()  # it has not started, as in safe mode
    device.monitor.start()
    assert device.monitor.decision.is_good
    device.seen = HOT
    device.monitor.refresh()
    assert [check.name for check in device.monitor.decision.against] == ["heat"]
    monkeypatch.setattr("service.schedule.idle_monitor.FRESH_S", 3600.0)
    device.seen = CALM
    device.monitor.refresh()
    assert not device.monitor.decision.is_good
    device.monitor.close()


def test_user_and_monitor_pause_independently(device, go):
    job = device.supervisor.adapt(trigger="schedule")
    pid = device.at_work(job)
    device.supervisor.pause(job.id)
    device.seen = HOT
    device.monitor.check()
    device.supervisor.resume(job.id)
    assert state_of(pid) == "T"
    device.seen = CALM
    device.monitor.check()
    until(lambda: state_of(pid) != "T", "the worker goes on")
