"""The part `idle_connections`: a crowd of silent and slow connections beside an owner who chats and corrects."""

from __future__ import annotations

import asyncio
import itertools
import select
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.daemon import PROMPTS
from bench.faults.scenario import DaemonUnderTest
from bench.ops.settings import OpsSettings
from lars_agent.errors import LarsError
from service.process.open_files import open_files_left

# What each of them sends at once, and then a byte a second of.
KINDS = {
    "silent": (b"", b""),
    "slow header": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"x"),
    "slow body": (b"POST /feedback HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n", b"x"),
    "idle after a request": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
    "takes nothing": (b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
}
PAUSE_S = 1.0  # between bytes, and before a closed one connects again
START_LIMIT_S, OWNER_PAUSE_S, OWNER_LIMIT_S, REPLY_TOKENS, SAID = 600.0, 0.2, 60.0, 8, 200


@dataclass
class Crowd:
    """So many connections to `port`; one that is closed connects again a second later."""

    port: int
    size: int
    opened: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Be there within the block."""
        thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    async def _all(self) -> None:
        tasks = [asyncio.create_task(self._one(kind)) for kind in itertools.islice(itertools.cycle(KINDS), self.size)]
        while not self._done.is_set():
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # until they are closed

    async def _one(self, kind: str) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(PAUSE_S)
                continue
            self.opened[kind] += 1
            first, more = KINDS[kind]
            if kind == "takes nothing":
                writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(first)
            try:
                while not _is_gone(writer.get_extra_info("socket").fileno()):
                    await asyncio.sleep(PAUSE_S)
                    writer.write(more)
            finally:
                writer.transport.abort()


def _is_gone(file: int) -> bool:
    """Tell whether the other end has closed the connection, whatever it has sent before."""
    poll = select.poll()
    poll.register(file, select.POLLRDHUP)
    return file < 0 or bool(poll.poll(0))


@dataclass
class Owner:
    """Somebody who chats and corrects, by turns over one lasting connection and a fresh one for each request."""

    url: str
    answered: int = 0
    slowest_s: float = 0.0
    unanswered: list[str] = field(default_factory=list)

    def work(self, seconds: float) -> None:
        """Go on for so long."""
        until = time.monotonic() + seconds
        with httpx.Client(base_url=self.url, timeout=OWNER_LIMIT_S) as lasting:
            for number in itertools.count():
                if time.monotonic() > until:
                    return
                prompt = PROMPTS[number % len(PROMPTS)]
                parameters = {"max_new_tokens": REPLY_TOKENS}
                self._ask(lasting, "/generate", {"inputs": prompt, "parameters": parameters})
                correction = {"prompt": prompt, "response": "?", "correction": f"Number {number}."}
                with httpx.Client(base_url=self.url, timeout=OWNER_LIMIT_S) as fresh:
                    self._ask(fresh, "/feedback", correction)
                time.sleep(OWNER_PAUSE_S)

    def _ask(self, client: httpx.Client, path: str, body: dict[str, Any]) -> None:
        asked = time.monotonic()
        try:
            response = client.post(path, json=body)
            if response.is_success:
                self.answered += 1
            else:
                self.unanswered.append(f"{path}: {response.status_code} {response.text[:SAID]}")
        except httpx.HTTPError as error:
            self.unanswered.append(f"{path}: {error!r}")
        self.slowest_s = max(self.slowest_s, time.monotonic() - asked)


def idle_connections(settings: OpsSettings, folder: Path) -> dict[str, Any]:
    """The owner's requests without an answer, and the bytes by which the log grew, beside the crowd."""
    if open_files_left(settings.connections, 100) < settings.connections:
        raise LarsError(f"{settings.connections} connections need as many open files here; raise ulimit -n")
    with DaemonUnderTest.quick(folder, "crowd") as running:
        running.start()
        running.wait_until_healthy(START_LIMIT_S)
        before, owner = running.log.stat().st_size, Owner(running.url)
        crowd = Crowd(running.port, settings.connections)
        with crowd():
            owner.work(settings.seconds)
        grown = running.log.stat().st_size - before
    return {
        "connections": settings.connections,
        "seconds": settings.seconds,
        "opened": dict(crowd.opened),
        "refused": crowd.refused,
        "answered": owner.answered,
        "unanswered": owner.unanswered,
        "slowest_s": owner.slowest_s,
        "log_bytes": grown,
    }
