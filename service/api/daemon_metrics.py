"""Metrics of the daemon's state, read at each scrape."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, get_args

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from lars_agent.errors import AdapterError
from lars_agent.memory.measure import rss_bytes
from service.alarms import AlarmCode
from service.daemon import Daemon
from service.db.records import JobStatus, RunOutcome
from service.housekeeping.sweep import taken_bytes
from service.process.connection_counts import EndReason
from service.process.version import package_version
from service.worker.worker_exit import WorkerOutcome


class DaemonCollector(Collector):
    """Collects the metrics of `daemon` from its parts, its database and the sizes of its folders."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterator[Metric]:
        """Yield every metric. Raises DatabaseError."""
        daemon = self._daemon
        yield InfoMetricFamily("lars_agent_build", "Version.", value={"version": package_version()})
        yield gauge("uptime_seconds", "Time since the daemon was started.", daemon.uptime_s())
        yield gauge("model_installed", "1 once the base model can reply.", daemon.model_host.installed is not None)
        yield gauge("model_loaded", "1 while the base model is in memory.", daemon.model_host.endpoint_pid is not None)
        swaps = "Activations of another adapter version or the base model."
        yield CounterMetricFamily("lars_agent_adapter_swaps", swaps, value=daemon.switch.swaps)
        active = {alarm.code for alarm in daemon.problems()}
        alarms = {code: code in active for code in get_args(AlarmCode)}
        yield labelled("alarm_active", "1 while the alarm is active, by its code.", "code", alarms)
        yield from self._serving()
        yield from self._connections()
        yield from self._rows()
        yield from self._jobs()
        yield from self._nights()
        yield from self._bytes()

    def _serving(self) -> Iterator[Metric]:
        daemon, runtime = self._daemon, self._daemon.settings.runtime
        yield gauge("unfinished_replies", "Replies that are made or wait for their turn.", daemon.model_host.unfinished)
        places = {"made": runtime.parallel, "waiting": runtime.queue_size}
        yield labelled("reply_places", "Most replies at a time that are made, and that wait.", "kind", places)
        lost = "Engine processes that ended by themselves, and were replaced at the next request."
        yield CounterMetricFamily("lars_agent_engines_lost", lost, value=daemon.model_host.engines_lost)
        yield gauge("failed_starts", "Starts that failed in a row, before this one.", daemon.starts.failed)
        if (made := self._newest_in_use()) is not None:  # the base model has no age
            age_s = (daemon.clock.for_ages() - made).total_seconds()
            yield gauge("active_version_seconds", "Age of the newest version in use, of all profiles.", max(0.0, age_s))

        if (made_s := daemon.backups.last_success_s) is not None:
            documentation = "When the newest backup in `backup.folder` was made, since the epoch; 0 for never."
            yield gauge("backup_last_success_timestamp_seconds", documentation, made_s)

    def _newest_in_use(self) -> datetime | None:
        """Return the time at which the newest version in use was published; None if the base model serves all."""
        made = []
        for profile, version in self._daemon.model_host.serving().items():
            if version is not None:
                with contextlib.suppress(AdapterError, ValueError):
                    made.append(datetime.fromisoformat(self._daemon.store.get(profile, version).created))
        return max(made, default=None)

    def _connections(self) -> Iterator[Metric]:
        counts = self._daemon.connections
        yield gauge("connections", "Open connections.", counts.open)
        accepted = "Connections that were accepted."
        yield CounterMetricFamily("lars_agent_connections_accepted", accepted, value=counts.accepted)
        ended = "Connections that the daemon ended: another one needed the place (`full`), or it was too slow (`late`)."
        yield counted(
            "connections_ended", ended, "reason", {reason: counts.ended[reason] for reason in get_args(EndReason)}
        )

    def _rows(self) -> Iterator[Metric]:
        db = self._daemon.db
        counts = db.feedback.counts()
        yield gauge("feedback_rows", "Pieces of feedback in the database.", counts.pop("total"))
        documentation = "Pieces of feedback with a correction, a rating above zero, or a rating of zero or less."
        yield labelled("feedback_rows_by_kind", documentation, "kind", counts)
        yield gauge("interaction_rows", "Recorded interactions.", db.interactions.count())

    def _jobs(self) -> Iterator[Metric]:
        db, supervisor = self._daemon.db, self._daemon.supervisor
        known = db.jobs.counts()
        counts = {status: known.get(status, 0) for status in get_args(JobStatus)}
        yield labelled("jobs", "Adaptation jobs in the database, by status.", "status", counts)
        yield gauge("job_running", "1 while an adaptation job runs or is paused.", supervisor.current is not None)
        paused: dict[str, float] = dict.fromkeys(self._daemon.worker.pause_reasons, 1.0)
        yield labelled("worker_paused", "1 for each reason the worker is paused for.", "reason", paused)
        for job in db.jobs.list(limit=1):  # without what it has not measured
            if job.budget_bytes is not None:
                yield gauge("last_job_budget_bytes", "Memory budget of the latest job's worker.", job.budget_bytes)
            if job.peak_bytes is not None:
                yield gauge("last_job_peak_bytes", "Peak resident memory of the latest job's worker.", job.peak_bytes)
            if job.started is not None:
                ended = time.time() if job.finished is None else job.finished.timestamp()
                documentation = "Time from the latest job's start to its end, or until now."
                yield gauge("last_job_seconds", documentation, max(0.0, ended - job.started.timestamp()))
            pauses = {reason: float(pause["seconds"]) for reason, pause in (job.pauses or {}).items()}
            yield labelled("last_job_paused_seconds", "Time that the latest job's worker was paused.", "reason", pauses)

    def _nights(self) -> Iterator[Metric]:
        daemon = self._daemon
        yield gauge("schedule_enabled", "1 if a next run is scheduled.", daemon.next_run() is not None)
        known = daemon.db.scheduled_runs.counts()
        runs = {outcome: known.get(outcome, 0) for outcome in get_args(RunOutcome)}
        yield labelled("scheduled_runs", "Scheduled runs in the database, by outcome.", "outcome", runs)
        failed = "Jobs that failed since the last one that came to a verdict, of the profile that has most."
        yield gauge("failed_jobs_in_a_row", failed, daemon.db.jobs.failed_in_a_row())
        count, oldest = daemon.db.waiting()
        yield gauge("feedback_waiting", "Pieces of feedback that no published version has been trained on.", count)
        age_s = 0.0 if oldest is None else (daemon.clock.for_ages() - oldest).total_seconds()
        yield gauge("feedback_waiting_seconds", "Age of the oldest of these; 0 if there is none.", max(0.0, age_s))
        decision = daemon.idle_monitor.decision
        checks: dict[str, float] = {check.name: check.state == "against" for check in decision.checks}
        yield labelled("idle_blocked", "1 for each idle check that is against training.", "reason", checks)
        ends = daemon.supervisor.worker_ends
        outcomes = {outcome: ends[outcome] for outcome in get_args(WorkerOutcome)}
        yield counted("worker_ends", "Training workers that ended, by outcome.", "outcome", outcomes)

    def _bytes(self) -> Iterator[Metric]:
        settings, daemon = self._daemon.settings, self._daemon
        database = sum(taken_bytes(path) for path in daemon.db.path.parent.glob(f"{daemon.db.path.name}*"))
        folders = {"database": database, "adapters": taken_bytes(settings.adapters_dir)}
        folders |= {"jobs": taken_bytes(settings.jobs_dir), "models": taken_bytes(settings.models_dir)}
        yield labelled("state_bytes", "Size of the files in the state folder, by what they hold.", "kind", folders)
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(settings.data_dir)
            yield gauge("disk_free_bytes", "Room on the disk of the state folder.", disk.free)
            yield gauge("disk_size_bytes", "Size of that disk.", disk.total)
        pids = {"daemon": None, "engine": daemon.model_host.endpoint_pid, "worker": daemon.worker.pid}
        running = {name: pid for name, pid in pids.items() if name == "daemon" or pid is not None}
        resident = {name: resident_bytes(pid) for name, pid in running.items()}
        yield labelled("resident_bytes", "Resident memory by process.", "process", resident)
        yield gauge("memory_budget_bytes", "Memory that training may use.", settings.memory.budget_bytes)


def gauge(name: str, documentation: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(f"lars_agent_{name}", documentation, value=float(value))


def labelled(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    """Return a gauge with one value per value of `label`."""
    family = GaugeMetricFamily(f"lars_agent_{name}", documentation, labels=(label,))
    for value_of_label, value in values.items():
        family.add_metric((value_of_label,), float(value))
    return family


def counted(name: str, documentation: str, label: str, values: Mapping[Any, int]) -> Metric:
    """Return a counter with one value per value of `label`."""
    family = CounterMetricFamily(f"lars_agent_{name}", documentation, labels=(label,))
    for value_of_label, value in values.items():
        family.add_metric((value_of_label,), value)
    return family


def resident_bytes(pid: int | None) -> int:
    """Return the resident memory of a process, by default this one; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return rss_bytes(pid)
    return 0
