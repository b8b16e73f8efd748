"""Start and stop the daemon's parts in order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler

from lars_agent.store.adapters import AdapterStore
from service.alarms import Alarm
from service.backup.nightly import Backups, require_schedule
from service.cycle.ratings import RatingsWatch
from service.cycle.supervisor import JobRunning, Supervisor
from service.db import Database
from service.db.records import JobRecord, JobTrigger
from service.housekeeping.disk_alarms import disk_alarms
from service.housekeeping.eraser import Eraser
from service.housekeeping.housekeeper import Housekeeper
from service.process.clock import Clock
from service.process.connection_counts import ConnectionCounts
from service.process.crash_loop import StartupFailures
from service.process.data_lock import DataLock
from service.process.log import set_level
from service.process.shutdown import WORKER_S
from service.process.wrong_tokens import WrongTokens
from service.schedule.idle_monitor import IdleMonitor
from service.schedule.scheduler import NightlyScheduler, bring_forward
from service.serving.adapter_switch import AdapterSwitch
from service.serving.model_host import ModelHost
from service.serving.model_pull import ModelPull
from service.serving.profiles import OwnProfile, Profiles
from service.serving.recorder import Recorder
from service.serving.request_metrics import RequestMetrics
from service.serving.sessions import Sessions
from service.settings.load import Settings, SettingsSource
from service.worker.preemption import RequestPreemption
from service.worker.process import WorkerProcess
from service.worker.remote.leftovers import Leftovers

HEALTHY_S = 30.0  # that the daemon and its model have to be up for a start to have gone well


@dataclass
class Daemon:
    """All parts of the daemon, for request handlers as `app.state.daemon`; composed by `service.app.compose`.

    `settings` are those that hold now, `source` is where they come from, and `notices` says what came of reading them
    again. After too many failed `starts` it serves the base model alone: no job continues or starts, and nothing is
    scheduled. `profile` is the one as which a caller sees the daemon, see `seen_by`; None is the owner.
    """

    settings: Settings
    source: SettingsSource
    lock: DataLock
    clock: Clock
    db: Database
    store: AdapterStore
    profiles: Profiles | OwnProfile
    worker: WorkerProcess
    preemption: RequestPreemption
    model_host: ModelHost
    model_pull: ModelPull
    switch: AdapterSwitch
    recorder: Recorder
    supervisor: Supervisor
    schedule: NightlyScheduler
    idle_monitor: IdleMonitor
    starts: StartupFailures
    periodic: BackgroundScheduler
    housekeeper: Housekeeper
    leftovers: Leftovers
    eraser: Eraser
    ratings: RatingsWatch
    sessions: Sessions
    backups: Backups
    wrong_tokens: WrongTokens = field(default_factory=WrongTokens)
    notices: list[str] = field(default_factory=list)
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
    connections: ConnectionCounts = field(default_factory=ConnectionCounts)
    reloading: threading.Lock = field(default_factory=threading.Lock)
    importing: asyncio.Lock = field(default_factory=asyncio.Lock)
    profile: str | None = None
    _started: float = field(default_factory=time.monotonic)
    _closing_since: float | None = None
    _healthy: threading.Timer | None = None

    def start(self) -> None:
        """Go on with erasures, load the model; recover jobs and start the schedule as soon as it replies."""
        self.eraser.resume()
        self.model_host.start(self.switch.serve_profiles, when_ready=self._begin_work)

    def begin_closing(self) -> None:
        """Ask the worker to end while requests are still answered; `close` comes next."""
        self._closing_since = time.monotonic()
        self.supervisor.begin_closing()

    def close(self) -> None:
        """Stop everything; a running job has a checkpoint and continues at the next start."""
        since = self._closing_since or time.monotonic()
        if self._healthy is not None:
            self._healthy.cancel()
        self.model_host.halt()
        self.clock.close()
        if self.periodic.running:
            self.periodic.pause()
            self.periodic.get_jobs()  # waits until it has handed out what is due: a shutdown meanwhile loses that job
            self.periodic.shutdown(wait=False)
        self.housekeeper.close()
        self.backups.close()
        self.idle_monitor.close()
        self.supervisor.close(timeout_s=max(0.5, since + WORKER_S - time.monotonic()))
        self.model_host.close()
        self.preemption.close()
        self.db.close()
        self.starts.clear()
        self.lock.release()

    def use(self, settings: Settings) -> None:
        """Apply `settings` to the next job, schedule and reply. Raises ConfigError without changing anything."""
        require_schedule(settings, self.clock.now())
        self.schedule.use(settings)  # those that may refuse come first
        self.worker.use(settings.training)
        self.preemption.use(settings.idle.resume_s)
        self.supervisor.use(settings)
        self.idle_monitor.use(settings)
        self.housekeeper.use(settings)
        self.backups.use(settings)
        self.model_host.use(settings)
        self.recorder.use(settings.learning)
        set_level(settings.log.level)
        self.settings = settings

    def seen_by(self, profile: str) -> Daemon:
        """Return the daemon as a caller has it who may use `profile` alone, to whom nothing of others exists."""
        return replace(self, profile=profile, db=self.db.of(profile), profiles=OwnProfile(profile))

    def require_free(self, profile: str) -> None:
        """Raise the error with which `adapt` would refuse to start a job now."""
        self.starts.require_normal()
        with self._unnamed_jobs():
            self.supervisor.require_free(profile)

    def adapt(self, profile: str, trigger: JobTrigger, fine_tuning: Mapping[str, Any] | None = None) -> JobRecord:
        """Start a job and return it. Raises SafeMode, and as `Supervisor.adapt` does."""
        self.starts.require_normal()
        with self._unnamed_jobs():
            return self.supervisor.adapt(profile, trigger, fine_tuning)

    @contextmanager
    def _unnamed_jobs(self) -> Iterator[None]:
        """Raise JobRunning without the id of a job that the caller does not see."""
        try:
            yield
        except JobRunning as error:
            if self.profile is None or error.job_id in (None, *(job.id for job in self.db.jobs.unfinished())):
                raise
            raise JobRunning("another job is running; wait until it has ended") from error

    def next_run(self) -> datetime | None:
        """Return the time of the next scheduled run; None if there is none."""
        return None if self.starts.safe_mode else self.schedule.next_run()

    def problems(self) -> list[Alarm]:
        """Return the active alarms, those of other profiles for the owner alone."""
        safe_mode = [Alarm("safe_mode", self.starts.message)] if self.starts.safe_mode else []
        disk = disk_alarms(self.settings.data_dir, self.settings.database_path)
        own = [*safe_mode, *self.clock.problems(), *disk, *self.backups.problems(), *self.leftovers.problems()]
        every = [*own, *self.model_host.problems, *self.switch.problems, *self.recorder.problems]
        return [alarm for alarm in every if self.profile is None or alarm.profile in (None, self.profile)]

    def status(self) -> str:
        """Return the daemon's state in one line."""
        if self.model_host.installed is None:
            return "loading the model"
        if self.starts.safe_mode:
            return "safe mode: the last starts failed, only the base model is served"
        return f"ready; {self.idle_monitor.message}"

    def uptime_s(self) -> float:
        """Seconds since the daemon was composed."""
        return time.monotonic() - self._started

    def _begin_work(self) -> None:
        self._healthy = threading.Timer(HEALTHY_S, self.starts.clear)
        self._healthy.daemon = True
        self._healthy.start()
        if self.starts.safe_mode:
            return
        self.supervisor.recover()
        self.idle_monitor.start()
        self.schedule.start()
        self.housekeeper.start()
        self.backups.start()
        self.leftovers.start()
        self.periodic.start()
        self.clock.watch(partial(bring_forward, self.periodic))
