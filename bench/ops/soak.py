"""The part `soak`: hours of requests, some of them answered by the model, and jobs back to back."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.daemon import descendants
from bench.faults.clients import LESSONS, PROMPTS, REPLY_TOKENS, THINGS
from bench.faults.scenario import MODULES, DaemonUnderTest
from bench.ops.settings import OpsSettings

A_SECOND, THREADS, LIMIT_S, START_LIMIT_S, SAID = 20, 32, 120.0, 600.0, 200
SAMPLE_S, WARM_S, WINDOW_S, POLL_S, SETTLE_S = 5.0, 600.0, 120.0, 0.5, 5.0
GENERATE = "generate"
READ = (
    *("/health", "/info", "/feedback?limit=20", "/jobs?limit=5", "/metrics", "/interactions?limit=5", "/v1/models"),
    *(
        "/schedule/runs",
        "/profiles",
        "/adapters",
        "/ready",
        "/device",
        "/openapi.json",
        "/settings",
        "/health",
        "/info",
    ),
)
NOTE = {"prompt": "Hello?", "response": "Hm.", "rating": -1, "profile": "crowd"}  # nothing to learn from
Sample = tuple[float, int]  # time and resident bytes


@dataclass
class Memory:
    """Samples of the processes of a daemon: of those that last, and the peak of each worker with its time."""

    pid: int
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {"daemon": [], "engine": []})
    workers: dict[int, Sample] = field(default_factory=dict)

    def look(self) -> None:
        """Take a sample of every process."""
        now = time.monotonic()
        for name, one in self._lasting().items():
            self.samples[name].append((now, one.memory_info().rss))
        for one in descendants(self.pid, MODULES["worker"]):
            with suppress(psutil.Error):
                self.workers[one.pid] = (now, max(one.memory_info().rss, self.workers.get(one.pid, (0, 0))[1]))

    def files(self) -> dict[str, int]:
        """How many files each has open, once the connections of clients that have left are closed."""
        time.sleep(SETTLE_S)
        return {name: one.num_fds() for name, one in self._lasting().items()}

    def growth_mb(self, warm: float, end: float, window_s: float) -> dict[str, float]:
        """For each kind of process MB (of 10^6) from the time `warm` to `end`, of the medians of a window."""
        grown = {}
        for name, samples in (self.samples | {"worker": list(self.workers.values())}).items():
            parts = [[rss for time, rss in samples if at <= time <= at + window_s] for at in (warm, end - window_s)]
            if all(parts):
                before, after = map(statistics.median, parts)
                grown[name] = (after - before) / 1e6
        return grown

    def _lasting(self) -> dict[str, psutil.Process]:
        found = {"daemon": psutil.Process(self.pid)}
        if engines := descendants(self.pid, MODULES["engine"]):
            found["engine"] = engines[0]
        return found


@dataclass
class Load:
    """So many requests a second, in a fixed order; two of twenty are generated."""

    http: httpx.Client
    errors: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    _notes: deque[str] = field(default_factory=deque)

    def burst(self) -> None:
        """Ask the database as often as there are threads at the same time, so that its pool is full."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda path: self._call("GET", path), ["/feedback?limit=20"] * 4 * THREADS))

    def run(self, until: float) -> None:
        """Send request after request at their times, whether or not the ones before are answered."""
        turn: list[Callable[[], object]] = [lambda path=path: self._call("GET", path) for path in READ]  # type: ignore[misc]
        turn += [self._note, self._drop_note]
        turn.insert(0, self._generate)
        turn.insert(A_SECOND // 2, self._generate)
        with ThreadPoolExecutor(THREADS) as pool:
            began = time.monotonic()
            for number, request in enumerate(itertools.cycle(turn)):
                if (due := began + number / A_SECOND) > until:
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                pool.submit(request)

    def learn(self, until: float) -> None:
        """Run job after job, each of which learns another answer to the same questions."""
        bodies = [
            {"prompt": f"What is thing {number}?", "response": "?", "correction": "?"} for number in range(THINGS)
        ]
        stored = [self._call("POST", "/feedback", body) for body in bodies]
        ids = [body["id"] for body in stored if body]
        for era in itertools.count():
            for one in ids:
                self._call("PATCH", f"/feedback/{one}", {"correction": LESSONS[era % len(LESSONS)]})
            job = self._call("POST", "/jobs", {"profile": "default"})
            is_over = False
            while job and not job["finished"]:
                if time.monotonic() > until and not is_over:
                    is_over = True
                    self._call("POST", f"/jobs/{job['id']}/cancel")
                time.sleep(POLL_S)
                job = self._call("GET", f"/jobs/{job['id']}")
            if job and not is_over:
                self.jobs[job["status"]] += 1
                if job["status"] not in ("succeeded", "rejected"):
                    self.errors.append(f"a job {job['status']}: {job['error']}")
            if time.monotonic() > until:
                return

    def _generate(self) -> None:
        prompt = PROMPTS[self.answered[GENERATE] % len(PROMPTS)]
        body = {"inputs": prompt, "parameters": {"max_new_tokens": REPLY_TOKENS}}
        if self._call("POST", "/generate", body):
            self.answered[GENERATE] += 1

    def _note(self) -> None:
        if stored := self._call("POST", "/feedback", NOTE):
            self._notes.append(stored["id"])

    def _drop_note(self) -> None:
        if self._notes:
            self._call("DELETE", f"/feedback/{self._notes.popleft()}")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer, or None and one error more."""
        try:
            response = self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            self.errors.append(f"{method} {path}: {error!r}")
            return None
        if not response.is_success:
            self.errors.append(f"{method} {path}: {response.status_code} {response.text[:SAID]}")
            return None
        self.answered["all"] += 1
        return response.json() if response.headers.get("content-type", "") == "application/json" else response.text


def soak(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """Errors, and the growth of every process's memory from ten minutes (or a third) on, and of its open files."""
    seconds = 60 * settings.minutes
    with DaemonUnderTest.quick(folder, "soak") as running:
        running.start()
        running.wait_until_healthy(START_LIMIT_S)
        assert running.process is not None
        memory = Memory(running.process.pid)
        with _client(running.url) as http:  # so that what is opened once is open
            first = Load(http)
            first.burst()
            first.run(time.monotonic() + seconds / 20)
        files, began = memory.files(), time.monotonic()
        end = began + seconds
        with _client(running.url) as http:
            load = Load(http)
            threads = [threading.Thread(target=work, args=(end,)) for work in (load.run, load.learn)]
            for thread in threads:
                thread.start()
            while time.monotonic() < end:
                memory.look()
                time.sleep(min(SAMPLE_S, seconds / 60))
            for thread in threads:
                thread.join()
        left = {name: count - files.get(name, 0) for name, count in memory.files().items()}
    warm = began + min(WARM_S, seconds / 3)
    return {
        "minutes": settings.minutes,
        "answered": dict(load.answered),
        "a_second": load.answered["all"] / seconds,
        "jobs": dict(load.jobs),
        "errors": [*first.errors, *load.errors, *([] if load.jobs else ["no job has ended"])],
        "growth_mb": memory.growth_mb(warm, end, min(WINDOW_S, seconds / 6)),
        "files_left": left,
        "daemon_mb": _curve(memory.samples["daemon"], began),
        "engine_mb": _curve(memory.samples["engine"], began),
    }


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=LIMIT_S, limits=httpx.Limits(max_connections=THREADS + 4))


def _curve(samples: Sequence[Sample], began: float, points: int = 24) -> list[list[float]]:
    """Minutes and MB of some of the samples."""
    chosen = samples[:: max(1, len(samples) // points)]
    return [[round((at - began) / 60, 2), round(rss / 1e6, 1)] for at, rss in chosen]
