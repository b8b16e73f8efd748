"""Pause the worker at once while the device is not idle, and suspend it to a checkpoint after `idle.park_s`.

The checks have a thread of their own rather than a job of the periodic scheduler, which waits for times of the wall
clock: a clock that is set back would leave a hot device unchecked until it has caught up.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

import structlog

from service.db.records import JobRecord
from service.schedule.idle_policy import DeviceState, IdleDecision, Trigger, Window, decide
from service.settings.load import Settings
from service.worker.pause_reasons import PauseReason
from service.worker.process import WorkerProcess

log = structlog.get_logger(__name__)

OTHER_REASONS: dict[str, str] = {"user": "somebody paused it", "requests": "a reply is being made"}  # not from checks
WORKING_S, WAITING_S = 1.0, 60.0  # between two checks
FRESH_S = 5.0  # age up to which `refresh` keeps a decision


class IdleMonitor:
    """Pauses `worker` while `decide` is against working; `read_state` reads the device, `window` the schedule.

    `work` is the job that runs, None for none; `decision` is the result of the last check.
    """

    def __init__(
        self,
        settings: Settings,
        worker: WorkerProcess,
        *,
        read_state: Callable[[Window], DeviceState],
        window: Callable[[bool], Window],
    ) -> None:
        self._settings, self._worker = settings, worker
        self._read_state, self._window = read_state, window
        self.work: JobRecord | None = None
        self._checking, self._refreshing = threading.Lock(), threading.Lock()
        self._reasons: frozenset[PauseReason] = frozenset()
        self._closing, self._woken = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.decision = IdleDecision(())
        self._checked_at = -math.inf

    def use(self, settings: Settings) -> None:
        """Apply `settings` from the next check on."""
        self._settings = settings

    def start(self) -> None:
        """Check once, then regularly in a thread."""
        self.check()
        self._thread = threading.Thread(target=self._run, name="idle-monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop checking and end the pauses that were begun here."""
        self._closing.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()
        self._pause(frozenset())

    @property
    def message(self) -> str:
        """One line that says whether the daemon adapts now, and why or why not."""
        return self.message_for(None)

    def message_for(self, profile: str | None) -> str:
        """Return `message` for a caller who may use `profile` alone, without the name of another; None is the owner."""
        work, why = self.work, self.decision.why
        if work is None:
            return f"not adapting: {why}" if self.decision.checks else "not adapting"
        waits, name = self.waiting_for, work.profile if profile in (None, work.profile) else "another profile"
        return f"adapting {name}{', paused: ' if waits else ''}{'; '.join(waits)}"

    @property
    def waiting_for(self) -> list[str]:
        """What the job that runs is paused for, in words; nothing while it gets on."""
        reasons = self._worker.pause_reasons if self.work is not None else frozenset[PauseReason]()
        parts = [check.message for check in self.decision.against if check.name in reasons]
        parts += [OTHER_REASONS[name] for name in sorted(reasons) if name in OTHER_REASONS]
        return parts or [self.decision.why] * bool(reasons)

    def decide_start(self, window: Window) -> IdleDecision:
        """Decide whether a scheduled run may start now."""
        return decide(self._read_state(window), self._settings.idle, needs_bytes=self._settings.worker_bytes)

    def is_idle(self) -> bool:
        """Return whether work may go on that is not a job's, and was begun before."""
        return self.decide_start(self._window(True)).is_good

    @contextlib.contextmanager
    def watching(self, job: JobRecord) -> Iterator[None]:
        """Check within the block: before the first worker takes any memory, and every second from then on."""
        self.work = job
        try:
            self.check()
            self._woken.set()
            yield
        finally:
            self.work = None

    def refresh(self) -> None:
        """Check again if the last check is no longer fresh and the monitor runs."""
        with self._refreshing:
            running = self._thread is not None and not self._closing.is_set()
            if running and time.monotonic() - self._checked_at > FRESH_S:
                self._try_to_check()

    def check(self) -> IdleDecision:
        """Pause or resume the worker as the device's state demands; suspend it if it has been paused for long."""
        with self._checking:
            work, began = self.work, self._worker.pid is not None
            trigger: Trigger = "user" if work is not None and work.trigger != "schedule" else "schedule"
            self.decision = decide(
                self._read_state(self._window(work is not None)),
                self._settings.idle,
                needs_bytes=0 if began or trigger == "user" else self._settings.worker_bytes,
                trigger=trigger,
                running=began and not self._reasons,
            )
            self._checked_at = time.monotonic()
            self._pause(frozenset() if work is None else frozenset(check.name for check in self.decision.against))
            if work is not None and self._worker.paused_s() > self._settings.idle.park_s:
                self._worker.suspend()
            return self.decision

    def _pause(self, reasons: frozenset[PauseReason]) -> None:
        if reasons != self._reasons:
            log.info("worker_paused" if reasons else "worker_resumed", reasons=sorted(reasons), why=self.decision.why)
        for reason in reasons - self._reasons:
            self._worker.pause(reason)
        for reason in self._reasons - reasons:
            self._worker.resume(reason)
        self._reasons = reasons

    def _run(self) -> None:
        while True:
            self._woken.wait(WAITING_S if self.work is None else WORKING_S)
            self._woken.clear()
            if self._closing.is_set():
                return
            self._try_to_check()

    def _try_to_check(self) -> None:
        """Log what fails, so that it ends neither the thread nor the request that asked."""
        try:
            self.check()
        except Exception:
            log.exception("idle_check_failed")
