"""JSON lines over a socket between the daemon and the process that generates. No torch here."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lars_agent.errors import ErrorRecord, GenerationError, LarsError, deserialize_error, serialize_error
from lars_agent.example import Message
from lars_agent.runtime.request import Generation, GenerationRequest, Piece, TokenChoice, TokenLogprob

__all__ = ["Options", "Wire", "error_from", "error_to", "generation_from", "piece_from", "request_from", "request_to"]

Line = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What the process that generates is started with; see `lars_agent.runtime.engine.Engine`."""

    model_path: str
    dtype: str
    adapters_path: str
    threads: int = 0
    queue_size: int = 8
    parallel: int = 4
    prefix_bytes: int = 0
    deadline_s: float = 0.0  # 0: none


class Wire:
    """One end of the socket. Lines may be sent from any thread, and are read by one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._reader = end.makefile("rb")
        self._sending = threading.Lock()

    def send(self, line: Line) -> None:
        """The other end gets `line`. Raises OSError when there is none any more."""
        content = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._socket.sendall(content)

    def __iter__(self) -> Iterator[Line]:
        """The lines that the other end sends, until it is gone."""
        try:
            for content in self._reader:
                if content.endswith(b"\n"):  # what a process that was killed was at is no line
                    yield json.loads(content)
        except (OSError, ValueError):
            return

    def close(self) -> None:
        """The other end reads its last line."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.close()
        self._socket.close()


def error_to(error: Exception) -> ErrorRecord:
    """Serialize `error`; one that is not raised on purpose becomes a GenerationError."""
    return serialize_error(error if isinstance(error, LarsError) else GenerationError(repr(error)))


def error_from(record: ErrorRecord) -> LarsError:
    """Return the error that was sent."""
    return deserialize_error(record, GenerationError)


def request_to(request: GenerationRequest) -> Line:
    """`request` as it is sent."""
    return asdict(request)


def request_from(line: Line) -> GenerationRequest:
    """The request that was sent."""
    messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in line["messages"])
    return GenerationRequest(**line | {"messages": messages, "stop": tuple(line["stop"])})


def generation_from(line: Line) -> Generation:
    """The finished reply that was sent."""
    return Generation(**line | {"token_ids": tuple(line["token_ids"]), "logprobs": _logprobs(line["logprobs"])})


def piece_from(line: Line) -> Piece:
    """The piece that was sent."""
    return Piece(line["text"], _logprobs(line["logprobs"]))


def _logprobs(lines: Sequence[Line]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(TokenChoice(**line["chosen"]), tuple(TokenChoice(**choice) for choice in line["top"]))
        for line in lines
    )
