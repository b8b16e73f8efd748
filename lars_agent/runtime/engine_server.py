"""The process that generates: `python -m lars_agent.runtime.engine_server FD OPTIONS`.

It holds the model, the adapters and torch, so that the daemon need not: requests that only store something never wait
for a token's computation, an unloaded model leaves nothing behind, and a crash in a kernel takes no feedback with it.
FD is its end of a socket, OPTIONS a JSON object with the fields of `lars_agent.runtime.rpc.Options`. It ends when the
other end is gone.

    to it    {"id": 1, "do": "submit", "request": {...}}   {"id": 1, "do": "cancel"}
             {"id": 2, "do": "swap" | "serve_base", "profile": "alice"}
             {"id": 2, "do": "prepare", "profile": "alice", "version": 3}
             {"id": 3, "do": "close", "timeout_s": 10}
    from it  {"ready": true} or {"failed": {...}}, then
             {"id": 1, "seed": 7, "version": 3}   {"id": 1, "piece": {"text": "Hel", ...}}   {"id": 1, "done": {...}}
             {"id": 2, "value": 3}   {"id": 1, "error": {"type": "QueueFull", "message": "...", "fields": {}}}
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lars_agent.models.open import open_model, precision
from lars_agent.runtime.engine import Engine
from lars_agent.runtime.request import GenerationRequest, Ticket
from lars_agent.runtime.rpc import Options, Wire, error_to, request_from
from lars_agent.store.adapters import AdapterStore

__all__ = ["main"]


class Endpoint:
    """Does what the lines of `wire` ask of `engine`."""

    def __init__(self, wire: Wire, engine: Engine) -> None:
        self.wire, self.engine = wire, engine
        self._tickets: dict[int, Ticket] = {}
        self._doing: dict[str, Callable[[dict[str, Any]], Any]] = {
            "swap": lambda line: engine.swap(line["profile"]),
            "prepare": lambda line: engine.prepare(line["profile"], line["version"]),
            "serve_base": lambda line: engine.serve_base(line["profile"]),
            "close": lambda line: engine.close(line["timeout_s"]),
        }

    def serve(self) -> None:
        """Until the other end is gone."""
        for line in self.wire:
            if line["do"] == "cancel":
                ticket = self._tickets.get(line["id"])
                if ticket is not None:
                    ticket.cancel()
            elif line["do"] == "submit":
                self._receive(line["id"], request_from(line["request"]))
            else:
                threading.Thread(target=self._do, args=(line,), daemon=True).start()
        for ticket in list(self._tickets.values()):
            ticket.cancel()

    def _do(self, line: dict[str, Any]) -> None:
        try:
            answer = {"value": self._doing[line["do"]](line)}
        except Exception as error:  # told to whoever asked
            answer = {"error": error_to(error)}
        self._send({"id": line["id"], **answer})

    def _receive(self, number: int, request: GenerationRequest) -> None:
        """In the order that they come, but for those whose adapter has to be loaded first: nobody waits for these."""
        if self.engine.is_ready(request):
            self._submit(number, request)
        else:
            threading.Thread(target=self._submit, args=(number, request), daemon=True).start()

    def _submit(self, number: int, request: GenerationRequest) -> None:
        try:
            ticket = self.engine.submit(request)
        except Exception as error:
            self._send({"id": number, "error": error_to(error)})
            return
        self._tickets[number] = ticket
        self._send({"id": number, "seed": ticket.seed, "version": ticket.version})
        threading.Thread(target=self._relay, args=(number, ticket), daemon=True).start()

    def _relay(self, number: int, ticket: Ticket) -> None:
        try:
            for piece in ticket:
                self._send({"id": number, "piece": asdict(piece)})
            answer: dict[str, Any] = {"done": asdict(ticket.result())}
        except Exception as error:
            answer = {"error": error_to(error)}
        del self._tickets[number]
        self._send({"id": number, **answer})

    def _send(self, line: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the other end is gone, and so will this process be
            self.wire.send(line)


def main(arguments: list[str]) -> int:
    """Serves until the other end is gone; the exit status."""
    wire = Wire(socket.socket(fileno=int(arguments[0])))
    options = Options(**json.loads(arguments[1]))
    torch.set_num_threads(1)  # of this thread: see `Engine`
    try:
        opened = open_model(Path(options.model_path), *precision(options.dtype))
        engine = Engine(
            opened,
            AdapterStore(Path(options.adapters_path)),
            queue_size=options.queue_size,
            parallel=options.parallel,
            threads=options.threads,
            prefix_bytes=options.prefix_bytes,
            deadline_s=options.deadline_s or math.inf,
        )
    except Exception as error:  # told to whoever asked
        wire.send({"failed": error_to(error)})
        return 1
    wire.send({"ready": True})
    Endpoint(wire, engine).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
