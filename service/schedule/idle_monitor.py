"""The night shift: it looks at the moment all the time, holds the worker while it is a bad one, and says why.

A short pause keeps the process, which then stands still (SIGSTOP) at once. In a long one it is parked: it writes a
checkpoint and ends, so that its memory is free as well, and another one goes on from there when the moment is good.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator

import structlog

from service.db import JobRecord
from service.schedule.idle_policy import DeviceState, IdleDecision, Trigger, Window, decide
from service.settings.load import Settings
from service.worker.pause_reasons import PauseReason
from service.worker.process import WorkerProcess

log = structlog.get_logger(__name__)

HOLDERS: dict[str, str] = {"user": "somebody paused it", "requests": "a reply is being made"}  # who is no check
WORKING_S, WAITING_S = 1.0, 60.0  # between two looks
FRESH_S = 5.0  # how old what somebody asks about may be


class IdleMonitor:
    """Holds `worker` at bad moments while it works.

    `sight` looks at the device; `window` says where the schedule stands, for work that has begun or is owed.

    Attributes:
        work: the job that runs; None for none.
        moment: the last one looked at.
    """

    def __init__(
        self,
        settings: Settings,
        worker: WorkerProcess,
        *,
        sight: Callable[[Window], DeviceState],
        window: Callable[[bool], Window],
    ) -> None:
        self._settings, self._worker = settings, worker
        self._sight, self._window = sight, window
        self.work: JobRecord | None = None
        self._looking, self._asked = threading.Lock(), threading.Lock()
        self._held: frozenset[PauseReason] = frozenset()
        self._closing, self._woken = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.moment = IdleDecision(())
        self._looked_at = -math.inf

    def use(self, settings: Settings) -> None:
        """The next look is by `settings`."""
        self._settings = settings

    def start(self) -> None:
        """It looks from now on, and has looked once."""
        self.look()
        self._thread = threading.Thread(target=self._watch, name="shift", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """It looks no more; whom it held it holds no longer."""
        self._closing.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()
        self._hold(frozenset())

    @property
    def words(self) -> str:
        """Whether it adapts just now, and why or why not, in one line."""
        work, why = self.work, self.moment.why
        if work is None:
            return f"not adapting: {why}" if self.moment.checks else "not adapting"
        holders = self._worker.holders
        if not holders:
            return f"adapting {work.profile}"
        told = [check.words for check in self.moment.against if check.name in holders]
        told += [HOLDERS[name] for name in sorted(holders) if name in HOLDERS]
        return f"adapting {work.profile}, paused: {'; '.join(told) or why}"

    def judge(self, window: Window) -> IdleDecision:
        """Whether work that has not begun may begin now."""
        return decide(self._sight(window), self._settings.idle, needs_bytes=self._settings.worker_bytes)

    @contextlib.contextmanager
    def watching(self, job: JobRecord) -> Iterator[None]:
        """Watch over `job` within the block: look before its first worker takes anything, and often from then on."""
        self.work = job
        try:
            self.look()
            self._woken.set()
            yield
        finally:
            self.work = None

    def refresh(self) -> None:
        """`moment` is of now, or was a moment ago, while the watch goes on: somebody asks."""
        with self._asked:
            watching = self._thread is not None and not self._closing.is_set()
            if watching and time.monotonic() - self._looked_at > FRESH_S:
                self._try_to_look()

    def look(self) -> IdleDecision:
        """The worker is held if the moment is bad, and parked if it has been held for long."""
        with self._looking:
            work, began = self.work, self._worker.pid is not None
            asked: Trigger = "user" if work is not None and work.trigger != "schedule" else "schedule"
            moment = decide(
                self._sight(self._window(work is not None)),
                self._settings.idle,
                needs_bytes=0 if began or asked == "user" else self._settings.worker_bytes,
                asked=asked,
                running=began and not self._held,
            )
            self.moment, self._looked_at = moment, time.monotonic()
            self._hold(frozenset() if work is None else frozenset(check.name for check in moment.against))
            if work is not None and self._worker.held_s() > self._settings.idle.park_s:
                self._worker.park()
            return moment

    def _hold(self, names: frozenset[PauseReason]) -> None:
        if names != self._held:
            log.info("worker_held" if names else "worker_released", reasons=sorted(names), words=self.moment.why)
        for name in names - self._held:
            self._worker.hold(name)
        for name in self._held - names:
            self._worker.release(name)
        self._held = names

    def _watch(self) -> None:
        while True:
            self._woken.wait(WAITING_S if self.work is None else WORKING_S)
            self._woken.clear()
            if self._closing.is_set():
                return
            self._try_to_look()

    def _try_to_look(self) -> None:
        """What cannot be seen ends neither the watch nor the answer to who asks."""
        try:
            self.look()
        except Exception:
            log.exception("moment_not_seen")
