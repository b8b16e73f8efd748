"""The engine process: `python -m lars_agent.runtime.engine_server FD OPTIONS`.

It holds the model, the adapters and torch in place of the daemon. Requests that only store something never wait for a
token's computation, unloading the model frees all of its memory, and a crash in a kernel loses no feedback. FD is the
process's end of a socket, OPTIONS a JSON object with the fields of `EngineOptions`. The process ends when the daemon
closes the socket.

    to it    {"id": 1, "do": "submit", "request": {...}}   {"id": 1, "do": "cancel"}
             {"id": 2, "do": "prepare" | "swap", "profile": "alice", "version": 3}
             {"id": 3, "do": "forget", "profile": "alice", "versions": [2, 3]}
             {"id": 4, "do": "close", "timeout_s": 10}
             {"id": 5, "do": "embed", "inputs": ["a text", [9, 7]], "truncate": true}
    from it  {"ready": true} or {"failed": {...}}, then
             {"id": 1, "seed": 7, "version": 3, "recalled": []}
             {"id": 1, "piece": {"text": "Hel", ...}}   {"id": 1, "done": {...}}
             {"id": 2, "value": true}   {"id": 5, "value": [{"data": "...", "tokens": 3}]}
             {"id": 1, "error": {"type": "QueueFull", "message": "...", "fields": {}}}
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lars_agent.files import PRIVATE_UMASK
from lars_agent.models.arithmetic import precision
from lars_agent.models.open import open_model
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.runtime.rpc import EngineOptions, Line, RpcConnection, error_to, request_from
from lars_agent.store.adapters import AdapterStore


class EngineServer:
    """Carries out the calls that come over `connection` on `engine`, and sends the results back."""

    def __init__(self, connection: RpcConnection, engine: Engine) -> None:
        self.connection, self.engine = connection, engine
        self._tickets: dict[int, Ticket] = {}
        methods = (engine.prepare, engine.swap, engine.forget, engine.close)
        self._methods: dict[str, Callable[..., Any]] = {method.__name__: method for method in methods}
        self._methods["embed"] = lambda **arguments: [asdict(one) for one in engine.embedder.embed(**arguments)]

    def serve(self) -> None:
        """Serve until the other end closes the connection."""
        for line in self.connection:
            if line["do"] == "cancel":
                ticket = self._tickets.get(line["id"])
                if ticket is not None:
                    ticket.cancel()
            elif line["do"] == "submit":
                self._receive(line["id"], line["request"])
            else:
                _in_thread(self._call, line.pop("id"), line.pop("do"), line)
        for ticket in list(self._tickets.values()):
            ticket.cancel()

    def _call(self, number: int, method: str, arguments: Line) -> None:
        try:
            self._send({"id": number, "value": self._methods[method](**arguments)})
        except Exception as error:
            self._fail(number, error)

    def _receive(self, number: int, line: Line) -> None:
        """Submit a request: in order of arrival, but in a thread of its own if its adapter must be loaded first."""
        try:
            request = request_from(line)
        except ValueError as error:
            self._fail(number, error)
            return
        if self.engine.is_ready(request):
            self._submit(number, request)
        else:
            _in_thread(self._submit, number, request)

    def _submit(self, number: int, request: GenerationRequest) -> None:
        try:
            ticket = self.engine.submit(request)
        except Exception as error:
            self._fail(number, error)
            return
        self._tickets[number] = ticket
        self._send({"id": number, "seed": ticket.seed, "version": ticket.version, "recalled": ticket.recalled})
        _in_thread(self._relay, number, ticket)

    def _relay(self, number: int, ticket: Ticket) -> None:
        try:
            for piece in ticket:
                self._send({"id": number, "piece": asdict(piece)})
            self._send({"id": number, "done": asdict(ticket.result())})
        except Exception as error:
            self._fail(number, error)
        finally:
            del self._tickets[number]

    def _fail(self, number: int, error: Exception) -> None:
        self._send({"id": number, "error": error_to(error)})

    def _send(self, line: Line) -> None:
        with contextlib.suppress(OSError):  # the other end is closed, and this process is about to end
            self.connection.send(line)


def main(arguments: list[str]) -> int:
    """Serve until the other end closes the connection; return the exit status."""
    os.umask(PRIVATE_UMASK)
    connection = RpcConnection(socket.socket(fileno=int(arguments[0])))
    options = EngineOptions(**json.loads(arguments[1]))
    torch.set_num_threads(1)  # of this thread: see `Engine`
    try:
        folder = Path(options.model_path)
        opened = open_model(folder, *precision(options.dtype, folder, options.costs_file))
        engine = Engine(
            opened,
            AdapterStore(Path(options.adapters_path)),
            queue_size=options.queue_size,
            parallel=options.parallel,
            threads=options.threads,
            prefix_bytes=options.prefix_bytes,
            deadline_s=options.deadline_s or math.inf,
        )
    except Exception as error:
        connection.send({"failed": error_to(error)})
        return 1
    connection.send({"ready": True})
    EngineServer(connection, engine).serve()
    return 0


def _in_thread(function: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=function, args=arguments, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
