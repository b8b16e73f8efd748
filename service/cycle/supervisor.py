"""Run one job at a time: start, pause, resume, cancel, and continue after a crash; every job ends with a message."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from lars_agent.errors import JobCancelled, JobInvalid, LarsError, WorkerFailed
from lars_agent.store.names import DEFAULT_PROFILE
from lars_agent.training.job_directory import PLAN_FILE, JobResult, read_json, read_progress, read_result
from service.cycle.context import CycleContext
from service.cycle.cycle import run_cycle
from service.cycle.dry_run import dry_run
from service.cycle.job_directory import require_news
from service.db.records import UNFINISHED, JobChanges, JobRecord, JobTrigger
from service.settings.load import Settings
from service.worker.process import LOG_NAME, WorkerProcess, kill_stray
from service.worker.worker_exit import WorkerExit, WorkerOutcome

log = structlog.get_logger(__name__)

MAX_TRIES = 3
STOPPED_S = 2.0


class JobRunning(LarsError):
    """The job `job_id` has not finished, and one runs at a time; without one the daemon is shutting down."""

    def __init__(self, message: str, job_id: str | None = None) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobNotRunning(LarsError):
    """The job has finished: it can be neither paused, resumed nor cancelled."""


class Interrupted(Exception):
    """The daemon is closing; the job stays as it is and is run on at the next start."""


class Supervisor:
    """Runs personalization cycles, one at a time, each in a thread here and a worker process.

    Call `recover` once at start, when the base model is there, and `close` before the engine is closed. `watching`
    surrounds the work on a job, and `on_end` is called once a job has ended. `worker_ends` counts the workers' ends.
    """

    def __init__(
        self,
        context: CycleContext,
        worker: WorkerProcess,
        *,
        watching: Callable[[JobRecord], AbstractContextManager[object]] = nullcontext,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self._context, self._worker, self._watching, self._on_end = context, worker, watching, on_end
        self._db, self._store = context.db, context.store
        self.worker_ends = Counter[WorkerOutcome]()
        self._lock = threading.RLock()
        self._current: str | None = None
        self._cancelled = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> str | None:
        """Return the id of the job that runs or is paused; None if none does."""
        with self._lock:
            return self._current

    def use(self, settings: Settings) -> None:
        """Apply `settings` to the next job."""
        with self._lock:
            self._context = replace(self._context, settings=settings)

    def require_free(self, profile: str) -> None:
        """Raise JobRunning, ModelLoading, or AdapterNotFound for a name no profile can have, if no job could start."""
        if self._closing.is_set():
            raise JobRunning("the daemon is shutting down; ask again when it is back")
        for job in self._db.jobs.unfinished():
            raise JobRunning(f"job {job.id} is {job.status}; wait for it, or cancel it", job.id)
        self._context.base_model()
        self._store.active(profile)

    def adapt(
        self,
        profile: str = DEFAULT_PROFILE,
        trigger: JobTrigger = "manual",
        fine_tuning: Mapping[str, Any] | None = None,
    ) -> JobRecord:
        """Start a job and return it; `fine_tuning` is its record's.

        Raises as `require_free` does, and for the trigger "schedule" NothingToLearn where nothing has changed since
        the last judged job.
        """
        is_scheduled = trigger == "schedule"
        with self._lock:
            self.require_free(profile)
            reason = require_news(profile, self._context) if is_scheduled else "somebody asked for it"
            job = self._db.jobs.add(profile, trigger, reason, fine_tuning)
            self._start([job])
            return job

    def plan(self, profile: str = DEFAULT_PROFILE) -> dict[str, Any]:
        """Plan a job with the profile's present feedback; see `dry_run`."""
        return dry_run(profile, self._context, self._worker.command)

    def pause(self, job_id: str) -> JobRecord:
        """Pause the job's worker until `resume`. Raises JobNotFound, JobNotRunning."""
        with self._lock:
            self._require_current(job_id)
            self._worker.pause("user")
            return self._db.jobs.update(job_id, status="paused")

    def resume(self, job_id: str) -> JobRecord:
        """Resume the job. Raises JobNotFound, JobNotRunning."""
        with self._lock:
            self._require_current(job_id)
            self._worker.resume("user")
            return self._db.jobs.update(job_id, status="running")

    def cancel(self, job_id: str) -> JobRecord:
        """Cancel the job, if it has not published yet. Raises JobNotFound, JobNotRunning."""
        with self._lock:
            job = self._require_unfinished(job_id)
            if self._current == job_id:
                self._cancelled = True
                self._worker.stop()
                return job
            return self._db.jobs.update(
                job_id, status="cancelled", finished=self._db.now(), error="cancelled while it was waiting"
            )

    def recover(self) -> list[JobRecord]:
        """Resume and return the jobs that an earlier daemon left unfinished; paused ones stay paused."""
        with self._lock:
            jobs = [] if self._current or self._closing.is_set() else self._db.jobs.unfinished()
            if jobs:
                self._start(jobs)
            return jobs

    def progress(self, job_id: str) -> list[dict[str, Any]]:
        """Return the job's progress so far, one record for each step. Raises JobNotFound."""
        return read_progress(self._context.folder(self._db.jobs.get(job_id).id))

    def planned(self, job_id: str) -> Mapping[str, Any]:
        """Return the job's memory plan, see `lars_agent.training.job_plan.JobPlan`; empty before it is made."""
        try:
            return dict(read_json(self._context.folder(job_id) / PLAN_FILE))
        except JobInvalid:
            return {}

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until no job runs, at most `timeout_s`; return False if one still does."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def begin_closing(self) -> None:
        """Refuse new jobs and ask the worker to end; `close` waits until it has."""
        with self._lock:
            self._closing.set()
            self._worker.stop()

    def close(self, timeout_s: float = 8.0) -> None:
        """Stop the worker after a checkpoint; its job continues at the next start."""
        self.begin_closing()
        self.wait(timeout_s)

    def _start(self, jobs: Sequence[JobRecord]) -> None:
        self._make_current(jobs[0].id)
        self._thread = threading.Thread(target=self._run_all, args=(jobs,), name="jobs", daemon=True)
        self._thread.start()

    def _make_current(self, job_id: str) -> None:
        self._current, self._cancelled = job_id, False
        self._worker.reset()

    def _run_all(self, jobs: Sequence[JobRecord]) -> None:
        for job in jobs:
            try:
                self._run(job.id)
            except Exception:  # the database does not answer: the job stays unfinished and is run on at the next start
                log.exception("job_not_recorded", job=job.id)
            finally:
                with self._lock:
                    if self._current == job.id:  # else another one has begun since this one ended
                        self._current = None

    def _run(self, job_id: str) -> None:
        """Run the job and record how it ended; an interrupted job stays unfinished in its row."""
        job = self._begin(job_id)
        if job is None:
            return
        try:
            with self._watching(job):
                outcome = self._outcome(job_id)
        except Interrupted:
            attempts = self._db.jobs.get(job_id).attempts
            self._db.jobs.update(job_id, attempts=attempts - 1)  # a clean stop is no failed try
            return
        with self._lock:
            self._current = None
            outcome["finished"] = self._db.now()
            job = self._db.jobs.update(job_id, **outcome)
        log.info("job_ended", job=job_id, status=job.status, message=job.error)
        self._on_end()

    def _begin(self, job_id: str) -> JobRecord | None:
        """Return the job if it may begin: it is unfinished, nobody else works on it, and it has a try left."""
        if (stray := kill_stray(self._context.folder(job_id))) is not None:
            log.warning("stray_worker_killed", job=job_id, pid=stray)
        with self._lock:
            job = self._db.jobs.get(job_id)
            if self._closing.is_set() or job.status not in UNFINISHED:
                return None
            if self._current != job_id:
                self._make_current(job_id)
            if job.attempts >= MAX_TRIES:
                message = f"given up after {job.attempts} tries, each of which ended with the daemon; see {LOG_NAME}"
                self._db.jobs.update(job_id, status="failed", finished=self._db.now(), error=message)
                return None
            changes: JobChanges = {"attempts": job.attempts + 1, "started": job.started or self._db.now()}
            if job.status == "paused":
                self._worker.pause("user")
            else:
                changes["status"] = "running"
            return self._db.jobs.update(job_id, **changes)

    def _outcome(self, job_id: str) -> JobChanges:
        """Run the cycle and return how it ended; the only place where errors become messages in a job's row."""
        try:
            verdict = run_cycle(self._db.jobs.get(job_id), self._context, self._train)
        except JobCancelled as error:
            return {"status": "cancelled", "error": str(error)}
        except LarsError as error:
            return {"status": "failed", "error": str(error)}
        except Interrupted:
            raise
        except Exception as error:
            log.exception("job_failed", job=job_id)
            return {"status": "failed", "error": f"unexpected {type(error).__name__}: {error}; see the daemon's log"}
        if verdict.accepted:
            return {"status": "succeeded", "error": None}
        return {"status": "rejected", "error": " ".join(verdict.reasons)}

    def _train(self, folder: Path) -> JobResult:
        """Return the worker's result. Raises JobCancelled, WorkerFailed, Interrupted.

        A worker that was suspended, or stopped by somebody else, or hung, goes on from its checkpoint.
        """
        job, tries = self._db.jobs.get(folder.name), 0
        run = partial(self._worker.run, folder, job.budget_bytes, is_requested=job.trigger != "schedule")
        while tries < MAX_TRIES:
            self._check()
            worker_exit = run() if read_result(folder) is None else None
            if worker_exit is not None:
                self._note(folder.name, worker_exit)
            self._check()
            if (result := read_result(folder)) is not None:
                return result
            if worker_exit is not None and worker_exit.suspended:
                continue
            tries += 1
            if (
                worker_exit is not None
                and not worker_exit.stopped
                and (worker_exit.hung_s is None or tries == MAX_TRIES)
            ):
                raise worker_exit.failure()
            self._closing.wait(STOPPED_S)  # who stops the worker may be about to stop the daemon too
        raise WorkerFailed(f"the training worker was stopped {MAX_TRIES} times before it had a result")

    def _note(self, job_id: str, worker_exit: WorkerExit) -> None:
        """Record in the job's row the machine, the memory limit and the pauses of the worker."""
        self.worker_ends[worker_exit.outcome] += 1
        limit, job = worker_exit.limit, self._db.jobs.get(job_id)
        pauses = {reason: dict(pause) for reason, pause in (job.pauses or {}).items()}
        for reason, pause in self._worker.take_pauses().items():
            known = pauses.setdefault(reason, {"count": 0, "seconds": 0.0})
            known["count"] += pause.count
            known["seconds"] = round(known["seconds"] + pause.seconds, 6)
        spec = {**(job.spec or {}), "memory_limit": limit.kind, "runner": worker_exit.runner}
        if worker_exit.not_there:
            spec["not_there"] = worker_exit.not_there
        self._db.jobs.update(job_id, spec=spec, pauses=pauses)
        log.info(
            "worker_ended",
            job=job_id,
            exit_status=worker_exit.exit_status,
            runner=worker_exit.runner,
            limit=limit.kind,
            peak_bytes=limit.peak_bytes,
            suspended=worker_exit.suspended,
            hung_s=worker_exit.hung_s,
        )

    def _check(self) -> None:
        if self._cancelled:
            raise JobCancelled("the job was cancelled; the adapter in use stays as it is")
        if self._closing.is_set():
            raise Interrupted

    def _require_unfinished(self, job_id: str) -> JobRecord:
        job = self._db.jobs.get(job_id)
        if job.status not in UNFINISHED:
            raise JobNotRunning(f"job {job_id} is over already; it ended as {job.status!r}")
        return job

    def _require_current(self, job_id: str) -> None:
        self._require_unfinished(job_id)
        if self._current != job_id:
            raise JobNotRunning(f"job {job_id} is not running in this daemon; ask again in a moment")
