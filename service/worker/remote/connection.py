"""One ssh connection to the other machine: lines to and from the guest there, and files by rsync over the same one.

The programs `ssh` and `rsync` are the system's, with the account's own configuration, keys and known hosts. Nothing
asks for a password, and no name or path is read by a shell without being quoted.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lars_agent.errors import LarsError
from lars_agent.records import parse_json
from service.settings.runner import SshAddress

Message = Mapping[str, Any]

OPTIONS = (
    *("-T", "-a", "-x", "-oBatchMode=yes", "-oConnectTimeout=10", "-oLogLevel=ERROR", "-oControlPersist=no"),
    *("-oServerAliveInterval=15", "-oServerAliveCountMax=3", "-oClearAllForwardings=yes", "-oPermitLocalCommand=no"),
)
RSYNC = ("rsync", "-rtsp", "--chmod=D700,F600", "--no-links", "--max-size=4g", "--timeout=60")
SILENT_S = 90.0  # without a line of the guest, which says one every ten seconds
GONE_S, ENDS_S = 10.0, 2.0
MOST_LINE_CHARS = 1_000_000
# The interpreter of an installation: of the one in the folder $1, else of the program lars-agent, links followed.
FIND = (
    'if [ -n "$1" ]; then set -- "$1"/bin "$1"/venv/bin "$1"/.venv/bin; '
    'else for p in /opt/lars-agent/venv/bin/lars-agent "$HOME"/.local/bin/lars-agent "$(command -v lars-agent)"; do '
    '[ -x "$p" ] && set -- "$(dirname "$(readlink -f "$p")")" && break; done; fi; '
    'for d in "$@"; do [ -x "$d/python" ] && exec "$d/python" -P -m service.worker.remote.guest; done; '
    'echo "there is no installation of lars-agent; name its folder in training.runner" >&2; exit 127'
)


class Cut(LarsError):
    """The connection to the other machine could not be made, or has ended, or brought something damaged."""


class Connection:
    """Connected to a guest on the other machine; `close` ends both. Raises Cut where ssh or rsync is missing."""

    def __init__(self, address: SshAddress, *, is_quiet: bool = False) -> None:
        for program in ("ssh", "rsync"):
            if shutil.which(program) is None:
                raise Cut(f"there is no program {program} on this device; install it (Debian: openssh-client, rsync)")
        self._folder = tempfile.mkdtemp(prefix="lars-")
        self._socket = f"{self._folder}/s"
        self._lock, self._is_quiet = threading.Lock(), is_quiet
        path = (address.path or "").removeprefix("/~/")  # a login begins in the home folder
        command = f"exec sh -c {shlex.quote(FIND)} sh {shlex.quote(path)}"
        self._process = subprocess.Popen(
            ["ssh", "-M", "-S", self._socket, *OPTIONS, *address.arguments, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._said = b""  # the last line of its stderr, which goes on to ours
        self._messages: queue.Queue[Message | None] = queue.Queue()
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def send(self, message: Message) -> None:
        """Send a line to the guest; one that is gone is noticed by `receive`."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self, timeout_s: float = SILENT_S) -> Message:
        """Return the guest's next message. Raises Cut if none comes, or it is an error, or the connection has ended."""
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            raise Cut(f"it has said nothing for {timeout_s:.0f} s") from None
        if message is None:
            self._messages.put(None)
            raise self._cut()
        if message.get("say") == "error":
            raise Cut(str(message.get("message"))[:500])
        return message

    def receive_newest(self) -> list[Message]:
        """Wait for a message, and return the newest of each kind that has come. Raises as `receive` does."""
        newest = dict[str, Message]()
        message = self.receive()
        while True:
            kind = str(message.get("say"))
            newest.pop(kind, None)
            newest[kind] = message
            if self._messages.empty():
                return list(newest.values())
            message = self.receive()

    def push(self, sources: Sequence[Path], target: str, *flags: str) -> None:
        """Copy local files and folders into the folder `target` there. Raises Cut."""
        self._rsync([*flags, "--", *map(str, sources), f"there:{target}/"])

    def pull(self, sources: Sequence[str], target: Path) -> None:
        """Copy files and folders there into the local folder `target`. Raises Cut."""
        self._rsync(["--", *(f"there:{source}" for source in sources), f"{target}/"])

    def close(self) -> None:
        """End the connection, after which the guest removes what it has, unless it has done so."""
        with self._lock, contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(GONE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader, pipe in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(GONE_S)
            if pipe is not None and not reader.is_alive():
                pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _rsync(self, arguments: Sequence[str]) -> None:
        """Run rsync over this connection, never over another one."""
        shell = f"ssh -S {self._socket} -oControlMaster=no -oProxyCommand=false -oBatchMode=yes -oLogLevel=ERROR"
        done = subprocess.run(
            [*RSYNC, f"--rsh={shell}", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDS_S)
                raise self._cut()
            raise Cut(f"rsync: {first_line(done.stderr.decode(errors='replace'))[:500]}")

    def _cut(self) -> Cut:
        """Return the error of a connection that has ended, in the words of ssh or of what ran there."""
        self._readers[1].join(ENDS_S)
        return Cut(self._said.decode(errors="replace").strip()[:500] or "the connection has ended")

    def _read(self) -> None:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MOST_LINE_CHARS):
            try:
                message = parse_json(line)
            except ValueError:
                continue  # what a login script prints
            if isinstance(message, dict):
                self._messages.put(message)
        self._messages.put(None)

    def _read_errors(self) -> None:
        """Keep the last line of what ssh and the worker write, and pass it on."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said = line if line.strip() else self._said
            if self._is_quiet:
                continue
            with contextlib.suppress(OSError):  # the disk of the log may be full
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()


def first_line(text: str) -> str:
    """Return the first line that says something."""
    return (text.strip().splitlines() or ["no reason given"])[0]
