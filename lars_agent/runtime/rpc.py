"""JSON lines over a socket between the daemon and the engine process. No torch here."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from lars_agent.errors import ErrorRecord, GenerationError, LarsError, deserialize_error, serialize_error
from lars_agent.runtime.request import Generation, GenerationRequest, Piece, as_lars_error

Line = dict[str, Any]

# Inverses of `dataclasses.asdict`.
request_from = TypeAdapter(GenerationRequest).validate_python
generation_from = TypeAdapter(Generation).validate_python
piece_from = TypeAdapter(Piece).validate_python


@dataclass(frozen=True)
class EngineOptions:
    """Arguments of the engine process; see `lars_agent.runtime.engine.Engine`."""

    model_path: str
    dtype: str
    adapters_path: str
    threads: int = 0
    queue_size: int = 8
    parallel: int = 4
    prefix_bytes: int = 0
    deadline_s: float = 0.0  # 0: none
    costs_file: str | None = None  # what was measured on this device


class RpcConnection:
    """One end of the socket. Any thread may send lines; one thread reads them."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._reader = end.makefile("rb")
        self._sending = threading.Lock()

    def send(self, line: Line) -> None:
        """Send `line`. Raises OSError when the other end is closed."""
        content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._socket.sendall(content)

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines that the other end sends, until it closes."""
        try:
            for content in self._reader:
                if content.endswith(b"\n"):  # a killed process may leave half a line
                    yield json.loads(content)
        except (OSError, ValueError):
            return

    def close(self) -> None:
        """Close the connection; the other end reads to the last line sent."""
        with contextlib.suppress(OSError):  # already closed
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self._socket.close()


def error_to(error: Exception) -> ErrorRecord:
    """Serialize `error`; one that was not raised on purpose becomes a GenerationError."""
    return serialize_error(as_lars_error(error))


def error_from(record: ErrorRecord) -> LarsError:
    """Return the error that was sent."""
    return deserialize_error(record, GenerationError)
