"""Client of the engine process, see `lars_agent.runtime.engine_server`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lars_agent.errors import GenerationError
from lars_agent.memory.allocator import torch_environment
from lars_agent.runtime.embedded import Embedded, Input, embedded_from
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.runtime.rpc import EngineOptions, RpcConnection, error_from, error_to, generation_from, piece_from

DEFAULT_COMMAND = (sys.executable, "-P", "-m", "lars_agent.runtime.engine_server")
GONE = "the process that generates has ended; the daemon's log says more, and the next request starts it again"
GRACE_S = 1.0  # to end, or to say that nothing is generated any more: it holds nothing that could be lost


class RemoteTicket(Ticket):
    """A ticket whose reply is generated in the engine process."""

    def __init__(self, request: GenerationRequest, cancel: Callable[[], None]) -> None:
        super().__init__(request, seed=0)
        self._cancel_there = cancel
        self.answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def cancel(self) -> None:
        """See `Ticket`."""
        super().cancel()
        self._cancel_there()


@dataclass
class _Call:
    """A call to the engine process, and its answer."""

    answers: queue.SimpleQueue[dict[str, Any]] = field(default_factory=queue.SimpleQueue)


class EngineClient:
    """The engine in its own process, with the calls of `lars_agent.runtime.engine.Engine`.

    Raises what opening the model raises. `serving` is known here, so that nobody waits for a process to ask it.
    """

    def __init__(self, options: EngineOptions, command: Sequence[str] = DEFAULT_COMMAND) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, RemoteTicket | _Call] = {}
        self._serving: dict[str, int | None] = {}
        self._lock = threading.Lock()
        self._gone = False
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), json.dumps(asdict(options))],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=torch_environment(os.environ, options.threads),
            )
        self._wire = RpcConnection(ours)
        self._lines = iter(self._wire)
        first = next(self._lines, {"failed": error_to(GenerationError(GONE))})
        if "failed" in first:
            self._wire.close()
            self._process.wait()
            raise error_from(first["failed"])
        self._thread = threading.Thread(target=self._hear, name="engine", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """True while the process answers."""
        return not self._gone

    def submit(self, request: GenerationRequest) -> Ticket:
        """See `Engine.submit`."""
        number = next(self._numbers)
        ticket = RemoteTicket(request, lambda: self._tell({"id": number, "do": "cancel"}))
        answer = self._ask(number, ticket, {"do": "submit", "request": asdict(request)})
        ticket.seed, ticket.version, ticket.recalled = (
            answer["seed"],
            answer["version"],
            tuple(map(tuple, answer["recalled"])),
        )
        return ticket

    def embed(self, inputs: Sequence[Input], truncate: bool) -> list[Embedded]:
        """See `Embedder.embed`."""
        return embedded_from(self._call({"do": "embed", "inputs": list(inputs), "truncate": truncate}))

    def prepare(self, profile: str, version: int) -> bool:
        """See `Engine.prepare`."""
        return bool(self._call({"do": "prepare", "profile": profile, "version": version}))

    def swap(self, profile: str, version: int | None) -> None:
        """See `Engine.swap`."""
        self._call({"do": "swap", "profile": profile, "version": version})
        self._serving[profile] = version

    def forget(self, profile: str, versions: Sequence[int]) -> None:
        """See `Engine.forget`."""
        self._call({"do": "forget", "profile": profile, "versions": list(versions)})
        if self._serving.get(profile) in versions:
            self._serving[profile] = None

    def serving(self, profile: str) -> int | None:
        """See `Engine.serving`."""
        return self._serving.get(profile)

    def close(self, timeout_s: float = 10.0) -> None:
        """See `Engine.close`; the process has ended, and was killed if it would not."""
        if not self._gone:
            with contextlib.suppress(GenerationError, queue.Empty):  # it ended before it could say so, or hangs
                self._call({"do": "close", "timeout_s": timeout_s}, within_s=2 * timeout_s + GRACE_S)
        self._wire.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()

    def _call(self, line: dict[str, Any], within_s: float | None = None) -> Any:
        return self._ask(next(self._numbers), _Call(), line, within_s)["value"]

    def _ask(
        self, number: int, waiting: RemoteTicket | _Call, line: dict[str, Any], within_s: float | None = None
    ) -> dict[str, Any]:
        """Send `line` and return its first answer. Raises the error in the answer, GenerationError, or queue.Empty."""
        with self._lock:
            if self._gone:
                raise GenerationError(GONE)
            self._waiting[number] = waiting
        self._tell({"id": number, **line})
        answer = waiting.answers.get(timeout=within_s)
        if "error" in answer:
            raise error_from(answer["error"])
        return answer

    def _tell(self, line: dict[str, Any]) -> None:
        try:
            self._wire.send(line)
        except OSError:
            self._lost()

    def _hear(self) -> None:
        for line in self._lines:
            self._answer(line)
        self._lost()

    def _answer(self, line: dict[str, Any]) -> None:
        """Pass `line` to the caller that waits for it."""
        with self._lock:
            waiting = self._waiting.get(line["id"])
            if not {"piece", "seed"} & line.keys():
                self._waiting.pop(line["id"], None)
        if waiting is not None:
            _hand(waiting, line)

    def _lost(self) -> None:
        """Fail all calls and replies: the process is gone."""
        with self._lock:
            if self._gone:
                return
            self._gone = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            _hand(one, {"error": error_to(GenerationError(GONE))})


def _hand(waiting: RemoteTicket | _Call, line: dict[str, Any]) -> None:
    if isinstance(waiting, RemoteTicket):
        if "piece" in line:
            waiting.give(piece_from(line["piece"]))
            return
        if "done" in line:
            waiting.finish(generation_from(line["done"]))
            return
        if "error" in line:
            waiting.finish(None, error_from(line["error"]))
    waiting.answers.put(line)
