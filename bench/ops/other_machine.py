"""Another machine of the owner's: an sshd on loopback with keys, home and known hosts of its own."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.record import CHECKOUT
from examples.running import free_port
from lars_agent.errors import LarsError

START_S = 20.0
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def missing_programs() -> list[str]:
    """The programs that this needs and that are not installed."""
    return [name for name, path in (("sshd", SSHD), ("rsync", shutil.which("rsync"))) if path is None]


@dataclass
class OtherMachine:
    """An sshd that can be killed and started again; `bin_folder` has an ssh that knows its keys.

    Attributes:
        cache: the folder that holds all that guests keep there.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def bin_folder(self) -> Path:
        """To be the first of PATH."""
        return self.folder / "bin"

    @property
    def cache(self) -> Path:
        """The folder of all that a guest keeps."""
        return self.folder / "cache" / "lars-agent" / "elsewhere"

    @property
    def runner(self) -> str:
        """The setting training.runner."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{sys.prefix}"

    def start(self) -> None:
        """Start the sshd, and wait until it listens. Raises LarsError."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what sshd separates privileges in
        with (self.folder / "sshd.log").open("ab") as log:
            command = [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise LarsError(f"sshd does not listen: {(self.folder / 'sshd.log').read_text(errors='replace')[-1000:]}")

    def cut(self) -> int:
        """Kill the processes of sshd for each connection, not what they started; return their number."""
        assert self.process is not None
        sessions = [one for one in self._below() if one.name() == "sshd" and one.pid != self.process.pid]
        for one in sessions:
            with suppress(psutil.Error):
                one.kill()
        return len(sessions)

    def stop(self) -> None:
        """Kill the sshd, and every connection."""
        if self.process is None:
            return
        self.cut()
        self.process.kill()
        self.process.wait()
        self.process = None

    def crash(self) -> None:
        """Kill everything that runs there at once."""
        assert self.process is not None
        for one in [psutil.Process(self.process.pid), *self._below()]:
            with suppress(psutil.Error):
                one.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def personal_files(self) -> list[Path]:
        """The files there that came from a job."""
        return [path for path in (self.cache / "jobs").rglob("*") if path.is_file() and path.name != ".lock"]

    def _below(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def other_machine(folder: Path) -> Iterator[OtherMachine]:
    """Another machine in `folder`, killed at the end of the block."""
    machine = OtherMachine(folder, free_port())
    machine.bin_folder.mkdir(parents=True)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_text((folder / "client.pub").read_text(encoding="utf-8"), encoding="utf-8")
    host = (folder / "host.pub").read_text(encoding="utf-8")
    (folder / "known").write_text(f"[127.0.0.1]:{machine.port} {host}", encoding="utf-8")
    (folder / "sshd_config").write_text(
        f"Port {machine.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"SetEnv PYTHONPATH={CHECKOUT} XDG_CACHE_HOME={folder}/cache XDG_DATA_HOME={folder}/data\n",
        encoding="utf-8",
    )
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/client\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "StrictHostKeyChecking yes\n",
        encoding="utf-8",
    )
    wrapper = machine.bin_folder / "ssh"
    real = shlex.quote(shutil.which("ssh") or "ssh")
    wrapper.write_text(f'#!/bin/sh\nexec {real} -F {shlex.quote(str(folder / "ssh_config"))} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    machine.start()
    try:
        yield machine
    finally:
        machine.stop()
